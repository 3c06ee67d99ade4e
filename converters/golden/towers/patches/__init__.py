"""Reference image towers over a sequence of patches."""
