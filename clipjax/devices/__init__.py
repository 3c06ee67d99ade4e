"""Meshes, processes, platforms, and the signals that end a program."""
