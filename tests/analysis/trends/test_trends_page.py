"""docs/study/trends.md: its example, run on the published tables, prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from clipjax.analysis.figures.spec import load_spec
from clipjax.results.published.numbers import read_numbers
from clipjax.results.published.result_rows import published_rows
from clipjax.results.store import ResultStore

PAGE = Path(__file__).parents[3] / "docs" / "study" / "trends.md"


def test_the_example(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source, folder in (("open_clip", "openclip"), ("timm", "timm")):
        numbers = read_numbers(source, test_data / "published" / folder)
        rows = published_rows(
            [each for each in numbers if each.score.dataset in ("imagenet_val", "imagenet_r")]
        )
        ResultStore("results").add([row for row in rows if row["metric"] == "top1"])
    blocks = re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "text"] * 5
    namespace: dict[str, Any] = {}
    for (_, code), (_, said) in zip(blocks[::2], blocks[1::2]):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        assert printed.getvalue() == said
    check_the_picture(namespace)


def check_the_picture(names: dict[str, Any]) -> None:
    """The differences that the page states below its picture, whose groups are those of its figure file."""
    spec = load_spec(PAGE.parents[1] / "examples" / "two_trends.toml")
    assert spec.difference == ("clip", "standard")
    clip, standard = (names["training"][key] for key in spec.difference)
    difference = names["compare_groups"](clip, standard)
    text = PAGE.read_text(encoding="utf-8")
    assert f"at {difference.at:.0%} on ImageNet".replace("%", " %") in text
    for name, part in (("offset", difference.offset), ("slope", difference.slope), ("tan", difference.tan)):
        line = re.search(rf"^\* \*\*{name}\*\*: .* (-?[\d.]+) \[(.+), (.+)\]", text, flags=re.MULTILINE)
        assert line is not None, name
        found = (part.value, part.interval["lo"], part.interval["hi"])
        assert [*map(float, line.groups())] == pytest.approx(found, abs=0.01), name  # other draws of models
