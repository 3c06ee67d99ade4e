"""The rendered world, and what `make demo` does with it."""
