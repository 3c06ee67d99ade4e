"""Whole files on disks and buckets, digests, stored arrays, readers that expect damage."""
