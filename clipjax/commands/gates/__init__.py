"""`clipjax gate` and `clipjax watch`."""
