"""A model's number from its rows, groups of models, and scales."""
