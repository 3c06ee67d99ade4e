"""Visual factors of 11 images of 3 classes, in the file formats of ImageNet-X."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipjax.data.labels import LabelSpace

SPACE = LabelSpace("letters", ("a", "b", "c"), ("a", "b", "c"))
FACTORS = ("texture", "pose", "larger", "glow")  # neither the package's order nor all of its names
# name -> class, its top factor, its further factors
IMAGES: dict[str, tuple[int, str | None, tuple[str, ...]]] = {
    "0.png": (0, "pose", ("texture",)),
    "1.png": (0, "pose", ()),
    "2.png": (0, "texture", ("pose",)),
    "3.png": (0, None, ()),
    "4.png": (1, "pose", ()),
    "5.png": (1, "texture", ()),
    "6.png": (1, "glow", ("pose", "texture")),
    "7.png": (1, "pose", ("larger",)),
    "8.png": (2, "larger", ()),
    "9.png": (2, "pose", ()),
    "10.png": (2, "pose", ()),
}
PROTOTYPES = ("0.png", "9.png")
REAL = {"0.png": [0, 1], "4.png": [], "5.png": [2]}
GROUPS = ("vowel", "consonant", "consonant")


def records() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of the top and of the multi file."""
    top, multi = [], []
    for name, (label, most, others) in IMAGES.items():
        every = {*others, most}
        head = {"file_name": name, "class": label}
        top.append(head | {key: int(key == most) for key in FACTORS} | {"justification": None})
        multi.append(head | {key: int(key in every) for key in FACTORS} | {"justification": "close up"})
    return top, multi


def write(folder: Path, top: Any = None, multi: Any = None, *, optional: bool = True) -> Path:
    """All files; `multi` in another order of lines, as nothing promises that they are aligned."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = records()
    for name, rows in (("top", top or lines[0]), ("multi", multi or lines[1][::-1])):
        text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        (folder / f"letters_{name}_factor.jsonl").write_text(text)
    if optional:
        (folder / "prototypical_paths.csv").write_text("file_name\n" + "".join(f"{n}\n" for n in PROTOTYPES))
        (folder / "letters_real_labels.jsonl").write_text(json.dumps(REAL))
        (folder / "letters_metaclasses.csv").write_text("name\n" + "".join(f"{name}\n" for name in GROUPS))
    return folder
