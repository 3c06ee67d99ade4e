"""Annotated shapes (jaxtyping) are checked in the tests by `checked`, which conftest.py installs."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# Packages and modules whose annotations are checked; one that states shapes belongs here.
FORWARD = "network layers convolutions pooling vit eva convnext modified_resnet mbconv text coca_text roberta"
ANNOTATED = ["clipjax.metrics", *(f"clipjax.models.{name}" for name in FORWARD.split())]

# As typing has it, an int is a float, too.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
