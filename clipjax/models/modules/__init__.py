"""What towers are made of: layers, convolutions, pools, and their sequences."""
