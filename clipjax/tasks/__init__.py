"""One file per task: features of images -> one row per image -> numbers with intervals."""
