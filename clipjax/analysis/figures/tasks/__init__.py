"""Figures of single tasks.

Each `..._figure` writes `out` as .png and .pdf and returns both paths. It raises DataError if no row fits, or
a file cannot be written.
"""
