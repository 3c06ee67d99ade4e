"""One module per family: timm's options -> our image tower.

A module has `CLASSES`, the names of timm's classes, and `tower(options) -> {...}`: the `[vision]` record,
without `family` (its module's name), from a `converters.foreign.timm_options.Options`.
"""
