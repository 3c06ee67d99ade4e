"""Result rows -> trends, figures, claims, a report. Imports no JAX."""
