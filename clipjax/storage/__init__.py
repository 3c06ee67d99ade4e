"""Whole files on a disk or a bucket, digests, stored arrays, readers that expect damage."""
