"""Models: architecture records, their modules, one family of towers per file, pure forward functions."""
