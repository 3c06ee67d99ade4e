"""Plug-ins for clipjax, one module each; docs/plugins.md explains them."""
