"""One file a family of towers, found by scanning."""
