"""Rows that several tasks measure in one way."""
