"""The gallery as HTML: one file without scripts, which loads nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import NamedTuple

from clipjax.analysis.report.markup import Html, joined, tag
from clipjax.analysis.report.page import head
from clipjax.errors import counted, readable_bytes
from clipjax.evaluation.gallery.image_choice import ImageGroup, in_words
from clipjax.evaluation.gallery.model_answers import AnsweredSet, ModelAnswers
from clipjax.evaluation.gallery.thumbnails import Pictures, Thumbnail

OPEN = 4  # answers of more models than this are folded
READING = (
    "If a group has too many images, the page takes them in turn from the labels: in the named order, the "
    "first image of every label, then the second of every label. So no label fills the page. The number "
    "after an answer is the model's confidence."
)
WAYS = {"prompts": "prompts", "label_space": "labels", "precision": "precision", "made": "made"}
OWN = "not stated: no data card describes them"


class Shown(NamedTuple):
    """The groups of one data set, with the thumbnails of their images."""

    answered: AnsweredSet
    groups: list[ImageGroup]
    pictures: Pictures


def gallery_page(name: str, shown: Sequence[Shown], left_out: Mapping[str, str], side: int) -> str:
    """The page as text.

    Args:
        left_out: data sets -> why, in a sentence that names them.
        side: pixels of a thumbnail's longer side, at most.
    """
    sections = [_section(k, each) for k, each in enumerate(shown)]
    if left_out:
        lines = [tag("li", f"{why}.") for why in left_out.values()]
        heading = tag("h2", "Left out", id="left-out")
        sections.append(tag("section", heading, tag("ul", *lines), aria_labelledby="left-out"))
    links = [tag("a", _title(each.answered), href=f"#{anchor(k)}") for k, each in enumerate(shown)]
    links += [tag("a", "Left out", href="#left-out")] if left_out else []
    own = files("clipjax.evaluation.gallery")
    style = own.joinpath("gallery.css").read_text(encoding="utf-8")
    return Template(own.joinpath("gallery.html").read_text(encoding="utf-8")).substitute(
        head=head("gallery", f"Images: {name}", _facts(shown, side), style=style),
        warnings=joined(*_warnings(shown), tag("p", READING, class_="quiet about")),
        links=joined(*links),
        sections=joined(*sections),
        index=_index(shown),
    )


def anchor(k: int) -> str:
    """The id of the section of the k-th data set."""
    return f"images-{k}"


def _title(answered: AnsweredSet) -> str:
    return f"{answered.dataset} · {answered.task}"


def _facts(shown: Sequence[Shown], side: int) -> str:
    thumbnails = [one for each in shown for one in each.pictures.thumbnails.values()]
    size = readable_bytes(sum(len(one.encoded) for one in thumbnails))
    models = {model.name for each in shown for model in each.answered.models}
    counts = (counted(len(models), "model"), counted(len(shown), "data set"))
    images = counted(len(thumbnails), "thumbnail")
    return " · ".join((*counts, f"{images} of at most {side} pixels, {size} together"))


def _warnings(shown: Sequence[Shown]) -> Iterator[Html]:
    for each in shown:
        if each.pictures.private is not None:
            words = f"Do not pass this page on: {each.answered.dataset}: {each.pictures.private}."
            yield tag("p", words, class_="warning")


def _index(shown: Sequence[Shown]) -> str:
    """What the page shows, for the report's links to it. JSON without `<` ends no element."""
    places = [
        {"task": each.answered.task, "dataset": each.answered.dataset, "anchor": anchor(k)}
        for k, each in enumerate(shown)
    ]
    return json.dumps(places).replace("<", "\\u003c")


# A data set.


def _section(k: int, shown: Shown) -> Html:
    answered, pictures = shown.answered, shown.pictures
    about = [
        tag("p", ", ".join([f"{len(answered.ids):,} images", *_ways(answered)])),
        tag("p", f"Thumbnails show {pictures.fidelity}."),
        tag("p", f"Licence of the images: {pictures.licence or OWN}."),
        *(tag("p", f"{model} is left out: {why}.") for model, why in answered.left_out.items()),
    ]
    groups = [
        joined(
            tag("h3", group.title, id=f"{anchor(k)}-{number}"),
            tag("p", in_words(group), class_="quiet about"),
            _cards(group, shown),
        )
        for number, group in enumerate(shown.groups)
    ]
    links = [tag("a", group.title, href=f"#{anchor(k)}-{n}") for n, group in enumerate(shown.groups)]
    heading, name = tag("h2", _title(answered), id=anchor(k)), f"Groups of {answered.dataset}"
    nav = tag("nav", *links, aria_label=name)
    return tag("section", heading, *about, _key(answered.models), nav, *groups, aria_labelledby=anchor(k))


def _ways(answered: AnsweredSet) -> Iterator[str]:
    """How all runs were made."""
    for way, title in WAYS.items():
        if (own := answered.ways.get(way, "None")) != "None":
            yield f"{title} {own}"


def _key(models: Sequence[ModelAnswers]) -> Html:
    lines = [
        tag("li", tag("b", letter(k)), tag("span", each.name), tag("span", f"{each.right.mean():.3f} right"))
        for k, each in enumerate(models)
    ]
    return tag("ul", *lines, class_="key box", aria_label="Models")


def letter(k: int) -> str:
    """A, ..., Z, AA, AB, ..."""
    return (letter(k // 26 - 1) if k >= 26 else "") + chr(ord("A") + k % 26)


def _cards(group: ImageGroup, shown: Shown) -> Html | None:
    cards = [_card(row, shown) for row in group.rows]
    return tag("ul", *cards, class_="pictures") if cards else None


def _card(row: int, shown: Shown) -> Html:
    answered = shown.answered
    name, label = answered.ids[row], answered.labels[row] or "no label"
    return tag(
        "li",
        _picture(shown.pictures, row, f"{label}: {name}"),
        tag("p", label, class_="label"),
        _answers(answered.models, row),
        tag("p", name, class_="id"),
        class_="box",
    )


def _picture(pictures: Pictures, row: int, alt: str) -> Html:
    found: Thumbnail | None = pictures.thumbnails.get(row)
    if found is None:
        return tag("p", f"no picture: {pictures.unreadable[row]}", class_="no-picture")
    source = f"data:image/{found.form};base64,{base64.b64encode(found.encoded).decode()}"
    exact = "exact" if found.form == "png" else None
    return Html(tag("img", alt=alt, src=source, class_=exact).removesuffix("</img>"))


def _answers(models: Sequence[ModelAnswers], row: int) -> Html:
    lines = tag("ul", *(_answer(letter(k), each, row) for k, each in enumerate(models)), class_="answers")
    if len(models) <= OPEN:
        return lines
    right = sum(bool(each.right[row]) for each in models)
    return tag("details", tag("summary", f"{right} of {len(models)} right"), lines)


def _answer(name: str, model: ModelAnswers, row: int) -> Html:
    word, sign = ("right", "✓") if model.right[row] else ("wrong", "✗")
    sure = "" if model.confidence is None else f" {model.confidence[row]:.2f}"
    sign = tag("span", sign, class_=word, role="img", aria_label=word)
    return tag("li", tag("b", name), " ", sign, f" {model.texts[row]}{sure}")
