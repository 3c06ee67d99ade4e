"""Comparison of two sets of rows."""
