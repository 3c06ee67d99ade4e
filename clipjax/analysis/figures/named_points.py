"""Names for an SVG's points, which a browser shows under the mouse (`<title>`)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from clipjax.results.escaping import xml

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def name_points(svg: bytes, names: Mapping[str, Sequence[str]]) -> bytes:
    """Add titles to the points of matplotlib's SVG. `names`: gid of a collection -> a title per point.

    Raises:
        ValueError: a collection is absent, or has another number of points.
    """
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(svg)
    groups = {each.get("id"): each for each in root.iter(f"{{{SVG}}}g") if each.get("id") in names}
    for gid, titles in names.items():
        marks = _marks(groups[gid]) if gid in groups else []
        if len(marks) != len(titles):
            raise ValueError(f"{gid}: {len(marks)} points in the SVG, and {len(titles)} names")
        for mark, title in zip(marks, titles):
            ET.SubElement(mark, f"{{{SVG}}}title").text = xml(title)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _marks(group: ET.Element) -> list[ET.Element]:
    # Matplotlib draws points as copies of one path or, if sizes differ, as a path each.
    copies = list(group.iter(f"{{{SVG}}}use"))
    return copies or list(group.iter(f"{{{SVG}}}path"))
