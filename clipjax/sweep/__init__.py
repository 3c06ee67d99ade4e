"""Sweeps: models x data sets x tasks from one file (`clipjax sweep SUITE.toml`); see docs/sweeps.md.

`suite` parses the file, `plan` puts the runs in the cheapest order, `shards` divides them among jobs, `run`
runs those without results.
"""
