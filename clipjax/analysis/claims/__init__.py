"""Statements about robustness as data (configs/claims.toml), and what rows say of them."""
