"""The documentation site: `python -m docs.generate` builds it with Sphinx (`make docs`)."""
