"""One family of towers per file, found by scanning."""
