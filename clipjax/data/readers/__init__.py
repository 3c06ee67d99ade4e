"""One file a layout on disk: folders, shards, packed sets -> a manifest of images."""
