"""Meshes, processes, platforms, and signals that end a program."""
