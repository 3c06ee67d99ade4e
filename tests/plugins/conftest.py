"""The plug-ins are tested in the checkout that has them (`test_plugins.py`)."""

collect_ignore = ["files"]
