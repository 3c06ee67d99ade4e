"""Checks of whether a machine is ready (`clipjax doctor`)."""
