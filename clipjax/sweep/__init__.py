"""Sweeps: models x data sets x tasks from one file (`clipjax sweep SUITE.toml`); see docs/sweeps.md.

`suite` parses the file and `plan` says which runs there are, in which order and at what cost; `shards` cuts
the plan into parts for several jobs; `run` does what is not done yet. The runs themselves are those of
`clipjax.evaluation.collection`.
"""
