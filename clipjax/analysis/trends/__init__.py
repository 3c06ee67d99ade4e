"""Trend lines, group differences and correlations over models, with intervals."""
