"""Readers: one published layout of a data set per file."""
