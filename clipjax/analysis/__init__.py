"""Trends, figures, claims and a report from result rows. Imports no JAX."""
