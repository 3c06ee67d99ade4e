"""Figures and tables as data (configs/figures), drawn from rows."""
