"""Groups of models: the study's counts come out of the registry, and what is not known is in no group."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clipjax.analysis.figures.style import COLOURS, QUIET
from clipjax.analysis.rows.groups import Group, group_of, groups, matches, schemes
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.errors import DataError, UsageError
from clipjax.results.store import model_facts

IMAGENET = ("standard", "contrastive", "more_data")  # the study's groups of ImageNet classifiers


@pytest.fixture(scope="module")
def registered() -> dict[str, dict]:
    return {name: model_facts(model_card(name)) for name in registry()}


@pytest.fixture(scope="module")
def facts(registered: dict[str, dict]) -> dict[str, dict]:
    """Of all others but the models that came after the study."""
    return {name: one for name, one in registered.items() if one["group"] not in (*IMAGENET, "recent")}


def test_imagenet_classifiers_are_in_the_group_of_their_name(registered: dict[str, dict]) -> None:
    for scheme in ("paper", "training"):
        for one in registered.values():
            found = group_of(one, groups(scheme))
            if one["group"] in IMAGENET:
                assert found is not None
                assert found.key == one["group"]
            else:
                assert found is None or found.key not in IMAGENET


def counts(facts: dict[str, dict], scheme: str) -> Counter:
    found = (group_of(one, groups(scheme)) for one in facts.values())
    return Counter(None if group is None else group.key for group in found)


def test_the_registered_models_are_in_the_studys_groups(facts: dict[str, dict]) -> None:
    found = counts(facts, "paper")
    assert found == {
        "clip_wit": 9,
        "clip_laion_80m": 9,
        "clip_laion_400m": 10,
        "clip_laion_2b": 21,
        "clip_commonpool": 25,
        "clip_other": 10,
        "clip_ft_in1k": 14,
        "clip_ft_in12k": 18,
        None: 21,
    }
    assert sum(n for key, n in found.items() if key and key.startswith("clip_ft") is False) == 84
    outside = {name for name, one in facts.items() if group_of(one, groups()) is None}
    groups_outside = {"curated", "dense_baseline", "example", "probe3d", "vlm"}
    assert {facts[name]["group"] for name in outside} == groups_outside


def test_other_schemes_divide_them_by_one_thing(facts: dict[str, dict]) -> None:
    sources = counts(facts, "training_source")
    assert (sources["wit"], sources["laion"], sources["commonpool"], sources[None]) == (9, 43, 25, 53)
    assert counts(facts, "laion_architecture") == {"cnn": 12, "vit": 31, None: 94}
    assert sum(counts(facts, "family").values()) - counts(facts, "family")[None] == 84
    assert counts(facts, "training") == {"clip": 84, "clip_ft": 32, None: 21}
    assert counts(facts, "retrieval")["narrow_crop"] == 4
    assert [counts(facts, "wit_architecture")[group.key] for group in groups("wit_architecture")] == [1] * 6


def test_a_fine_tuned_model_is_no_zero_shot_model(facts: dict[str, dict]) -> None:
    tuned = {**facts["vit_b_32-openai"], "fine_tune": "FLYP"}
    for scheme in schemes():
        before, after = (group_of(one, groups(scheme)) for one in (facts["vit_b_32-openai"], tuned))
        if scheme in ("architecture", "wit_architecture"):
            assert after is before
        elif scheme == "fine_tune":
            assert after is not None
            assert after.key == "flyp"
        else:
            assert after is None


def test_what_is_not_known_meets_no_condition() -> None:
    assert not matches({}, {"group": "clip"})
    assert not matches({"group": None}, {"group": ["clip", "*"]})
    assert matches({"group": "clip"}, {"group": ["x", "cl*"]})
    assert not matches({"group": "clip"}, {"group": "CL*"})
    assert not matches({"size": 3}, {"size": "3*"})
    assert group_of({"group": "llava"}, groups()) is None


def test_every_scheme_can_be_told_apart_by_anyone() -> None:
    for scheme in schemes():
        shown = [(g.colour, g.marker, g.filled) for g in groups(scheme)]
        assert len(set(shown)) == len(shown), scheme
        assert {colour for colour, _, _ in shown} <= {*COLOURS, QUIET}
        assert len({g.title for g in groups(scheme)}) == len(shown)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    head = '[[mine]]\nkey = "a"\ntitle = "A"\ncolour = "#000000"\nmarker = "o"\n'
    (file := tmp_path / "mine.toml").write_text(head + 'where = { team = "x" }\n')
    assert groups("mine", file) == (Group("a", "A", "#000000", "o", True, {"team": "x"}),)
    assert schemes(file) == ["mine"]
    with pytest.raises(UsageError, match="unknown scheme of groups 'mein'; did you mean mine"):
        groups("mein", file)
    for number, (text, says) in enumerate(
        (
            (head, "group mine 1: `where` names facts and their values"),
            (head + "where = {}\n", "mine 1: `where` names facts"),
            (head.replace("#000000", "black") + "where = { team = 1 }\n", "colour = 'black' must be #RRGGBB"),
            (head + 'size = 3\nwhere = { team = "x" }\n', "unknown key 'size'"),
            ((head + 'where = { team = "x" }\n') * 2, "two groups of mine have the same key"),
            ("mine = 3\n", r"expected \[\[mine\]\]"),
        )
    ):
        (bad := tmp_path / f"{number}.toml").write_text(text)
        with pytest.raises(DataError, match=rf"{bad.name}: .*{says}"):
            groups("mine", bad)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('marker = "o"', 'marker = "zz"'), "marker = 'zz' is not one of 'o', 's', 'D'"),
        (('marker = "o"', "marker = 3"), "marker = 3 is not one of"),
        (('title = "T"', "title = 3"), "title = 3 must be a text"),
        (('key = "k"', 'key = ""'), "key = '' must be a text that is not empty"),
        (('marker = "o"', 'marker = "o"\nfilled = "yes"'), "filled = 'yes' must be true or false"),
    ],
)
def test_what_no_figure_could_draw_is_named(tmp_path, change, said):
    text = '[[mine]]\nkey = "k"\ntitle = "T"\ncolour = "#000000"\nmarker = "o"\nwhere = { arch = "*" }\n'
    path = tmp_path / "g.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(DataError, match=said) as refused:
        groups("mine", path)
    assert f"{path}: group mine 1" in str(refused.value)
