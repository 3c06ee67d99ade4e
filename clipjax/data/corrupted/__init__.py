"""Corrupted copies of a data set: their depth and other inputs, and the files that are written."""
