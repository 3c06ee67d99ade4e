"""Runs on questions about images: a vision-language model answers them."""
