"""One module per family: `CLASSES` (timm's) and `tower(Options)`: our `[vision]` record without `family`."""
