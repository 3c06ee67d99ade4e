"""The source of the 3D common corruptions."""

from __future__ import annotations

SOURCE = (
    "Kar et al., 3D common corruptions and data augmentation, CVPR 2022, and its reference code "
    "(EPFL-VILAB/3DCommonCorruptions 4fc007b)"
)
