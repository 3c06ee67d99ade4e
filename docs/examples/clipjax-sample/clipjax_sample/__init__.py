"""Plug-ins for clipjax, one module each; docs/how_to/plugins.md explains them."""
