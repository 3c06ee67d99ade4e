"""Models: architecture records, layers, one family of towers per file, pure forward functions."""
