"""Sweeps: models x data sets x tasks from one file (`clipjax sweep SUITE.toml`): docs/how_to/sweeps.md."""
