"""Result rows on disk, and published numbers beside them. Imports no JAX."""
