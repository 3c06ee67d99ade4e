"""Readers of data sets -> a manifest, one file per layout: folders, shards, packed sets."""
