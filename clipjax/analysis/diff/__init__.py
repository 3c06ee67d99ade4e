"""Two sets of rows: matched, what changed, what was done otherwise."""
