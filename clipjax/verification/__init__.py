"""Comparison of a model with its reference, stage by stage."""
