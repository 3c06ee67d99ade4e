"""Heads: from embeddings to one logit per class."""
