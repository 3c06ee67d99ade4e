"""Runs on questions about images that a server's model answers."""
