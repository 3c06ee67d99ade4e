"""Claims as data (configs/claims.toml), and their verdicts from rows."""
