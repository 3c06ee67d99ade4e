"""One module a family: how options of timm's architectures become our image towers.

A module has `CLASSES`, the names of timm's classes, and `tower(options) -> {...}`: the `[vision]` record,
without `family` (its module's name), from a `converters.foreign.timm_options.Options`.
"""
