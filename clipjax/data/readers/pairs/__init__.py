"""Readers of data sets of image pairs."""
