"""The version of the forward passes."""

# Bump it whenever a forward pass may return other numbers: every key of the embedding store contains it.
FORWARD_VERSION = 3
