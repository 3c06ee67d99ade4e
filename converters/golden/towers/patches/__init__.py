"""The reference's image towers over a sequence of patches."""
