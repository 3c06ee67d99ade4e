"""The command line: a module with `register` adds commands."""
