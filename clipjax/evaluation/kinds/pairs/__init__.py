"""Runs on pairs of images: a model makes maps of features, whose points are matched."""
