"""Image bytes -> each reference library's pixels, in batches."""
