"""Result rows on disk, and published numbers beside them. Only `published_rows` and `provenance` load JAX."""
