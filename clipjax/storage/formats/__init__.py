"""Formats of files of tensors that several rooms read or write, one module each."""
