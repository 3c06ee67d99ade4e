"""What tests of commands share with those of verification."""

from __future__ import annotations

from _reference_here import reference_here

__all__ = ["reference_here"]
