"""Runs on numbers that a data set lists beside its images."""
