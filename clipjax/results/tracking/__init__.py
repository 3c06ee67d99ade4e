"""Trackers: programs that show runs as they are made (`--track tensorboard`). Imports no JAX."""
