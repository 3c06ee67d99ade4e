"""Two sets of rows compared: what changed, and what was done differently."""
