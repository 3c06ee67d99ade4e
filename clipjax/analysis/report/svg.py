"""A matplotlib SVG inside an HTML page: half the bytes, and no effect on the rest of the page.

    inline(Path("fig1.svg").read_bytes(), "fig1", "Accuracy by factor")

Keeps shapes, texts and point names; drops metadata, unused ids and the style sheet (the root's style replaces
its two rules).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

from clipjax.analysis.figures.named_points import SVG, XLINK
from clipjax.analysis.report.markup import Html
from clipjax.results.escaping import xml

DIGITS = 2  # decimals of a coordinate in points: finer than a screen shows
POINT = 4 / 3  # in pixels
ROOT_STYLE = "stroke-linejoin: round; stroke-linecap: butt"
SHARED = ("style", "clip-path")
_NUMBER = re.compile(r"-?\d+\.\d+")
_COMMAND = re.compile(r" ?([A-Za-z]) ")  # of a path; the spaces around are redundant
_OPACITY = re.compile(r"(^|;)opacity:")
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")


def inline(svg: bytes, name: str, title: str) -> Html:
    """The figure as an `svg` element.

    Args:
        svg: from matplotlib, with text as text.
        name: prefix of its ids, unique on the page: figures must not use each other's shapes.
    """
    root = ET.fromstring(xml(svg.decode()))  # matplotlib does not escape control characters
    _strip(root)
    used = {one for each in root.iter() for value in each.attrib.values() for one in _references(value)}
    for each in root.iter():
        _shorten(each, name, used)
    _gather(root)
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    root.attrib.clear()
    box = " ".join(f"{number:g}" for number in (left, top, width, height))
    root.attrib |= {"viewBox": box, "width": f"{width * POINT:.0f}", "role": "img"}
    root.attrib |= {"aria-label": xml(title), "style": ROOT_STYLE}
    return Html(ET.tostring(root, encoding="unicode"))


def _strip(node: ET.Element) -> None:
    """Remove namespaces (HTML has none), metadata, style sheets and indentation."""
    for child in list(node):
        if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
            node.remove(child)
        else:
            _strip(child)
            child.tail = None
    node.tag = node.tag.removeprefix(f"{{{SVG}}}")
    if node.tag not in ("text", "tspan", "title"):
        node.text = None
    if (target := node.attrib.pop(f"{{{XLINK}}}href", None)) is not None:
        node.set("href", target)


def _references(value: str) -> Iterator[str]:
    return (one or other for one, other in _REFERENCE.findall(value))


def _shorten(node: ET.Element, name: str, used: set[str]) -> None:
    if node.get("id") is not None and node.attrib["id"] not in used:
        del node.attrib["id"]
    for key, value in node.attrib.items():
        if key == "id":
            node.set(key, f"{name}-{value}")
        elif key in ("d", "x", "y", "width", "height", "transform", "points"):
            node.set(key, _COMMAND.sub(r"\1", " ".join(_NUMBER.sub(_rounded, value).split())))
        else:
            whole = _REFERENCE.sub(lambda reference: _renamed(reference, name), value)
            node.set(key, whole.replace(": ", ":").replace("; ", ";") if key == "style" else whole)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.{DIGITS}f}".rstrip("0").rstrip(".")


def _renamed(reference: re.Match[str], name: str) -> str:
    return f"url(#{name}-{reference[1]})" if reference[1] else f"#{name}-{reference[2]}"


def _gather(node: ET.Element) -> None:
    """Move attributes shared by a group's shapes to the group; dissolve groups without any.

    <g><path fill="red" d="1"/><path fill="red" d="2"/></g>
    <g fill="red"><path d="1"/><path d="2"/></g>
    """
    for child in node:
        _gather(child)
    _dissolve(node)
    shapes = [child for child in node if child.tag != "defs"]
    if node.tag != "g" or len(shapes) < 2:
        return
    for key in SHARED:
        value = shapes[0].get(key)
        if value is None or node.get(key) is not None:
            continue
        if all(shape.get(key) == value for shape in shapes) and _may_move(key, shapes):
            node.set(key, value)
            for shape in shapes:
                del shape.attrib[key]


def _dissolve(node: ET.Element) -> None:
    """Put the children of idle groups in their place."""
    parts: list[ET.Element] = []
    for child in node:
        parts += child if _is_idle(child) else [child]
    node[:] = [part for part in parts if part.tag != "defs" or len(part)]


def _may_move(key: str, shapes: Sequence[ET.Element]) -> bool:
    # A shape with a transform is clipped in its own coordinates.
    if key == "clip-path":
        return not any(shape.get("transform") for shape in shapes)
    # A translucent group is not a group of translucent shapes.
    return not _OPACITY.search(shapes[0].attrib[key])


def _is_idle(node: ET.Element) -> bool:
    return (node.tag == "g" and not node.attrib) or (node.tag == "defs" and not len(node))
