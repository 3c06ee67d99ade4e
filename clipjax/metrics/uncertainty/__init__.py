"""Uncertainty of numbers: intervals, the bootstrap, tests of two runs on the same images."""
