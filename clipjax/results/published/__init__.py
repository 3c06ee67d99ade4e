"""Numbers that others published, and the protocols by which they were computed."""
