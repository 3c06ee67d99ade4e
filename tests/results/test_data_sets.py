"""Data sets of one name: told apart by their images, and by nothing else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from _rows import row

from clipjax.analysis.report.data import report_data
from clipjax.analysis.rows.cells import RowIndex
from clipjax.data.cards import is_registered, tail_of
from clipjax.results.data_sets import images_of, recorded_name, with_distinct_names
from clipjax.results.store import ResultStore, new_run_id
from clipjax.storage.digests import sha256_json

X, Y, Z = (digit * 64 for digit in "123")
SAMPLE = {"limit": 100, "seed": 0, "of": 500}


def measured(images: str | None, folder: str | None = "", dataset: str = "test", **changed: Any) -> Any:
    """`folder`: "" for a row of an older version."""
    recipe = {"dataset": dataset} | ({} if images is None else {"images": images}) | changed.pop("recipe", {})
    fields = {"dataset": dataset, "recipe": recipe} | ({} if folder == "" else {"folder": folder}) | changed
    return row(new_run_id(), recipe_hash=sha256_json([images, folder, changed]), **fields)


def test_rows_are_told_apart_once(tmp_path, monkeypatch):
    """The store does it, and whoever uses its rows calls it again, which costs nothing until they change."""
    store = ResultStore(tmp_path)
    for images, folder in ((X, "pets/test"), (Y, "birds/test")):
        store.add([measured(images, folder)])
    rows = store.rows()
    assert [one["dataset"] for one in rows] == ["pets/test", "birds/test"]
    with monkeypatch.context() as patch:
        patch.setattr("clipjax.results.data_sets.images_of", None)  # looked at for each row
        assert with_distinct_names(rows) is rows
        index = RowIndex(rows)
        assert len(report_data(rows, "x")["columns"]) == len(list(index)) == 2
        for changed in (rows[:1], [*rows], rows + rows):
            with pytest.raises(TypeError):
                with_distinct_names(changed)
    other = store.rows(as_recorded=True)
    assert [one["dataset"] for one in RowIndex(other)] == ["pets/test", "birds/test"]
    rows.append(measured(Z, "fish/pets/test", "pets/test"))
    assert len({one["dataset"] for one in with_distinct_names(rows)}) == 3


def names(*rows: Any) -> list[str]:
    told = with_distinct_names(rows)
    assert [{**one, "dataset": ""} for one in told] == [{**one, "dataset": ""} for one in rows]
    assert with_distinct_names(told) == told
    return [one["dataset"] for one in told]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # One data set keeps its name, wherever it lies.
        ([(X, "pets/test"), (X, "copy/test"), (X, "")], ["test"] * 3),
        ([(X, "pets/test"), (Y, "birds/test")], ["pets/test", "birds/test"]),
        # More parents where the first is equal.
        ([(X, "a/pets/test"), (Y, "b/pets/test")], ["a/pets/test", "b/pets/test"]),
        ([(X, "a/pets/test"), (Y, "b/pets/test"), (Z, "b/fish/test")],
         ["a/pets/test", "b/pets/test", "fish/test"]),
        # The folder changed, or its path is not known: the digest.
        ([(X, "pets/test"), (Y, "pets/test")], ["pets/test (11111111)", "pets/test (22222222)"]),
        ([(X, ""), (Y, "")], ["test (11111111)", "test (22222222)"]),
        ([(X, ""), (Y, "birds/test")], ["test (11111111)", "birds/test"]),
        ([(X, "test"), (Y, "birds/test")], ["test (11111111)", "birds/test"]),
        # A card keeps its name: also if the images differ, and beside a folder.
        ([(X, None), (Y, None)], ["test"] * 2),
        ([(X, None), (Y, "birds/test"), (X, "pets/test"), (X, ""), (Z, "")],
         ["test", "birds/test", "test", "test", "test"]),
        # An archive.
        ([(X, "pets/test.tar"), (Y, "birds/test")], ["pets/test.tar", "birds/test"]),
    ],
)  # fmt: skip
def test_names_of_data_sets(rows, expected):
    made = [measured(*each) for each in rows]
    assert names(*made) == expected
    order = list(range(len(made)))
    random.Random(0).shuffle(order)
    assert sorted(names(*(made[k] for k in order))) == sorted(expected)


def test_a_stated_name_stays_beside_the_folder():
    rows = [measured(X, "pets/test", "mine"), measured(Y, "birds/test", "mine")]
    assert names(*rows) == ["mine (pets/test)", "mine (birds/test)"]


def test_a_sample_is_of_the_data_set_of_its_folder():
    whole, other = measured(X, "pets/test"), measured(Y, "birds/test")
    part = measured(Z, "pets/test", sample=SAMPLE)
    assert names(whole, part, other) == ["pets/test", "pets/test", "birds/test"]
    assert names(whole, part) == ["test", "test"]
    assert names(measured(X, ""), measured(Z, "", sample=SAMPLE)) == ["test", "test"]
    # Not if another folder, or one of several, may be meant.
    old = measured(Z, "", sample=SAMPLE)
    assert names(whole, other, old) == ["pets/test", "birds/test", "test (100 of 500 images)"]
    assert names(whole, measured(Z, "x/test", sample=SAMPLE)) == ["pets/test", "x/test"]
    changed = measured(Y, "pets/test")
    assert names(whole, part, changed) == [
        "pets/test (11111111)", "pets/test (100 of 500 images)", "pets/test (22222222)"
    ]  # fmt: skip


def test_two_samples_without_the_whole():
    a, b = measured(X, "pets/test", sample=SAMPLE), measured(Y, "pets/test", sample=SAMPLE | {"limit": 200})
    assert names(a, b) == ["pets/test (100 of 500 images)", "pets/test (200 of 500 images)"]
    b = measured(Y, "pets/test", sample=SAMPLE | {"seed": 1})
    assert names(a, b) == ["pets/test (11111111)", "pets/test (22222222)"]


def test_rows_without_a_digest():
    a, b = measured(X, "pets/test"), measured(Y, "birds/test")
    refused = measured(None, "", value=None, interval=None, note="not applicable: no text tower")
    predictions = measured(None, "")
    of_folder = measured(None, "birds/test")
    assert names(a, predictions) == ["test", "test"]
    assert names(a, b, refused)[2] in ("pets/test", "birds/test")  # it has no number
    assert names(a, b, predictions)[2] == "test (unknown images)"
    assert names(a, b, of_folder)[2] == "birds/test"
    assert names(measured(X, "birds/test", sample=SAMPLE), of_folder) == ["test", "test"]


def test_published_numbers_are_of_the_card():
    assert is_registered("imagenet_r")
    assert not is_registered("folder")  # the card of any folder
    assert not is_registered("pets/test")
    published = row(new_run_id(), origin="published", dataset="imagenet_r", recipe={"source": "paper"})
    old = measured(X, "", "imagenet_r")  # from before rows recorded whether a card describes their images
    card, folder = measured(X, None, "imagenet_r"), measured(Y, "data/imagenet_r", "imagenet_r")
    assert names(published, old, card, folder) == ["imagenet_r"] * 3 + ["data/imagenet_r"]


def test_no_two_data_sets_get_one_name():
    rows = [measured(X, "pets/test"), measured(Y, "birds/test"), measured(Z, "other", "pets/test")]
    assert names(*rows) == ["pets/test (11111111)", "birds/test", "pets/test"]
    digests = [measured(end.rjust(64, "0"), "") for end in "123"]
    assert names(*digests) == ["test (00000000)", "test (0000000000000000)", f"test ({'3'.rjust(64, '0')})"]


def test_a_store_tells_data_sets_apart_and_keeps_what_it_recorded(tmp_path):
    store = ResultStore(tmp_path)
    for each in (measured(X, "pets/test"), measured(Y, "birds/test")):
        store.add([each])
    assert [one["dataset"] for one in store.rows()] == ["pets/test", "birds/test"]
    assert [one["dataset"] for one in store.rows(as_recorded=True)] == ["test", "test"]
    assert [recorded_name(one) for one in store.rows()] == ["test", "test"]
    assert [images_of(one) for one in store.rows(every=True)] == [X, Y]
    assert store.run(store.run_ids()[0])[0]["dataset"] == "test"


def test_the_end_of_a_path(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b" / "c" / "d" / "test"
    folder.mkdir(parents=True)
    assert tail_of(folder) == "b/c/d/test"
    monkeypatch.setenv("HOME", str(tmp_path / "a" / "b"))
    assert tail_of(folder) == "c/d/test"
    monkeypatch.chdir(folder)
    assert tail_of(".") == "c/d/test"
    assert tail_of("/") == ""
    assert tail_of("gs://bucket/x/y/z/test") == "x/y/z/test"


def test_changed_images_are_named_by_as_much_of_the_folder_as_tells():
    before, after = (measured(digest, "data/of/pets/test") for digest in (X, Y))
    assert names(before, after) == [f"pets/test ({digest[:8]})" for digest in (X, Y)]


def test_a_folder_with_the_name_of_a_card_is_not_that_data_set():
    own = measured(X, "mine/imagenet_val", dataset="imagenet_val")
    assert names(own) == ["mine/imagenet_val"]
