"""Is this machine ready: checks of a `Machine`, which tests can make up (`clipjax doctor`)."""
