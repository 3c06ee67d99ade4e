"""The rendered world: its scenes, data sets and files."""
