"""One file a task: features of images -> one row an image -> numbers with intervals."""
