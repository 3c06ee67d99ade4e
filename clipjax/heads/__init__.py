"""Heads: from embeddings to one logit a class."""
