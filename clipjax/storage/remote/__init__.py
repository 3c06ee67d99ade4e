"""Bytes that are elsewhere: buckets, the hub, web servers; and copies of them on this disk."""
