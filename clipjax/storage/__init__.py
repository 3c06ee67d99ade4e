"""Whole files on disks and buckets, digests, stored arrays, strict readers."""
