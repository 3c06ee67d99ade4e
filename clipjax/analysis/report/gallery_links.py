"""The report's links to a page of images (`clipjax gallery`).

The gallery has an index of what it shows; each number of a task and data set in it gets a link.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipjax.errors import DataError, UsageError
from clipjax.storage.reading import read_text

INDEX = re.compile(r'<script type="application/json" id="gallery">(.*?)</script>', re.DOTALL)
KEYS = {"task", "dataset", "anchor"}


def gallery_links(gallery: Path, report: Path) -> list[dict[str, Any]]:
    """Task, data set and address of each part of the gallery.

    Args:
        gallery: the page.
        report: the page that will link to it; addresses are relative to its folder.

    Raises:
        UsageError: both are one file.
        DataError: the page is absent, or `clipjax gallery` did not write it.
    """
    if gallery.resolve() == report.resolve():
        raise UsageError(f"the report would replace the gallery {gallery}: give another --out")
    found = INDEX.search(read_text(gallery))
    try:
        places = json.loads(found[1]) if found else None
        if not isinstance(places, list) or not all(each.keys() >= KEYS for each in places):
            raise ValueError
    except (ValueError, AttributeError):
        raise DataError(f"{gallery} is not a page that `clipjax gallery` wrote: write it again") from None
    page = quote(Path(os.path.relpath(gallery, report.parent)).as_posix())
    return [
        {"task": each["task"], "dataset": each["dataset"], "page": f"{page}#{quote(each['anchor'])}"}
        for each in places
    ]
