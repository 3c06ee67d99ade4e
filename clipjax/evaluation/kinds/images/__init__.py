"""Runs on single images: a model embeds them, and a task reads the embeddings and a head."""
