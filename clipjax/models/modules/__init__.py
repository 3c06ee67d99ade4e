"""Parts of towers: layers, convolutions, pools, and their sequences."""
