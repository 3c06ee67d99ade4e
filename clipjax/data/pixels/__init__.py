"""Image bytes -> pixels as each reference library makes them, and batches of pixels."""
