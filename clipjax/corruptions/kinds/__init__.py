"""Kinds of corruption: a module that sets `CORRUPTIONS` adds its records."""
