"""An SVG of matplotlib's as a part of an HTML page: half its bytes, and nothing that reaches the page.

    inline(Path("fig1.svg").read_bytes(), "fig1", "Accuracy by factor")

Kept are shapes, texts and the names of points, which a browser shows under the mouse. Left out are metadata,
the style sheet (its two rules are inherited from the root) and ids that nothing refers to; the others begin
with the figure's name, so that figures do not borrow each other's shapes. What all parts of a group have in
common is said once, by the group.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

from clipjax.analysis.figures.named_points import SVG, XLINK
from clipjax.analysis.report.markup import Html
from clipjax.results.escaping import xml

DIGITS = 2  # of a coordinate, in points: finer than a screen shows
POINT = 4 / 3  # pixels
ROOT_STYLE = "stroke-linejoin: round; stroke-linecap: butt"
SHARED = ("style", "clip-path")
_NUMBER = re.compile(r"-?\d+\.\d+")
_COMMAND = re.compile(r" ?([A-Za-z]) ")  # of a path; spaces around it say nothing
_OPACITY = re.compile(r"(^|;)opacity:")
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")


def inline(svg: bytes, name: str, title: str) -> Html:
    """The figure as an `svg` element of HTML.

    Args:
        svg: as matplotlib writes it, with text as text.
        name: what its ids begin with; no other figure of the page may have it.
        title: what a screen reader says of it.
    """
    root = ET.fromstring(xml(svg.decode()))  # matplotlib writes control characters as they are
    _strip(root)
    used = {found for each in root.iter() for value in each.attrib.values() for found in _references(value)}
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
    """Names without namespaces, as HTML has them; no metadata, style sheets or indentation."""
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
    """Fewer digits; ids that are referred to with the figure's name before them, and no others."""
    if node.get("id") is not None and node.attrib["id"] not in used:
        del node.attrib["id"]
    for key, value in node.attrib.items():
        if key == "id":
            node.set(key, f"{name}-{value}")
        elif key in ("d", "x", "y", "width", "height", "transform", "points"):
            node.set(key, _COMMAND.sub(r"\1", " ".join(_NUMBER.sub(_rounded, value).split())))
        else:
            whole = _REFERENCE.sub(lambda found: _renamed(found, name), value)
            node.set(key, whole.replace(": ", ":").replace("; ", ";") if key == "style" else whole)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.{DIGITS}f}".rstrip("0").rstrip(".")


def _renamed(found: re.Match[str], name: str) -> str:
    return f"url(#{name}-{found[1]})" if found[1] else f"#{name}-{found[2]}"


def _gather(node: ET.Element) -> None:
    """Attributes that all shapes of a group share become the group's; groups that say nothing dissolve."""
    for child in node:
        _gather(child)
    if any(_is_idle(child) for child in node):
        parts = [part for child in node for part in (child if _is_idle(child) else [child])]
        node[:] = [part for part in parts if part.tag != "defs" or len(part)]
    shapes = [child for child in node if child.tag != "defs"]
    if node.tag != "g" or len(shapes) < 2:
        return
    for key in SHARED:
        values = {shape.get(key) for shape in shapes}
        if len(values) == 1 and None not in values and node.get(key) is None and _may_move(key, shapes):
            node.set(key, values.pop() or "")
            for shape in shapes:
                del shape.attrib[key]


def _may_move(key: str, shapes: Sequence[ET.Element]) -> bool:
    """Whether a group may have what its shapes have. A shape that is moved is clipped in its own coordinates,
    and a translucent group is not a group of translucent shapes."""
    if key == "clip-path":
        return not any(shape.get("transform") for shape in shapes)
    return not _OPACITY.search(shapes[0].attrib[key])


def _is_idle(node: ET.Element) -> bool:
    return (node.tag == "g" and not node.attrib) or (node.tag == "defs" and not len(node))
