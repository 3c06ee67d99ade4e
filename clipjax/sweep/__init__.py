"""Sweeps: models x data sets x tasks from one file (`clipjax sweep SUITE.toml`); see docs/sweeps.md."""
