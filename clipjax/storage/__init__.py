"""Bytes on a disk or a bucket: whole or absent, with digests, also where they are damaged; stored arrays."""
