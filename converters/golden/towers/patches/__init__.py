"""Image towers over a sequence of patches: transformers, and Mixers."""
