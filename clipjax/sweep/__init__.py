"""Sweeps: models x data sets x tasks from one file (`clipjax sweep SUITE.toml`); see docs/sweeps.md.

`suite` parses the file; `plan` has the runs, their order and cost; `shards` cuts the plan into parts for
several jobs; `run` does what is not done yet, by `clipjax.evaluation.collection`.
"""
