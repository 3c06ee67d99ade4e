"""The kinds of run: what a model does with a data set. A folder here is a kind, its module sets `KIND`."""
