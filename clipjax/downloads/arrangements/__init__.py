"""Arrangements by name, each a module that sets `ARRANGEMENT` (`clipjax.downloads.arrangement`)."""
