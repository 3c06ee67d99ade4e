"""Runs and models compared on the same images: differences of two, ranks of many."""
