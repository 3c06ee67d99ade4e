"""Checks of whether a machine is ready (`clipjax doctor`); tests can pass an invented `Machine`."""
