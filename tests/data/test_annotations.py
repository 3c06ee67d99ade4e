"""Annotations of visual factors: the package's files, small ones of the same formats, what is refused."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import _factors
import numpy as np
import pytest

from clipjax.data.annotations import FactorAnnotations, imagenet_x_facts, load_factors
from clipjax.errors import DataError, UsageError


@pytest.fixture(scope="module")
def package() -> FactorAnnotations:
    return load_factors()


def test_the_package(package):
    """Counts of the fact sheets of ImageNet-X, by name: the keys of the files are in another order."""
    assert len(package.names) == 48868
    top, multi = (dict(zip(package.factors, m.sum(axis=0).tolist())) for m in (package.top, package.multi))
    assert (top["pose"], top["larger"], top["multiple_objects"]) == (16080, 157, 40)
    assert (multi["pose"], multi["larger"], multi["multiple_objects"]) == (42525, 408, 1872)
    assert package.factors == imagenet_x_facts()["factors"]
    assert np.bincount(package.multi.sum(axis=1)).tolist() == [
        2, 6769, 19229, 13917, 6745, 1760, 367, 60, 11, 4, 3, 1,
    ]  # fmt: skip
    assert package.prototypes is not None
    assert (len(package.prototypes), len(package.prototypes & set(package.names))) == (3000, 2758)
    assert package.accepted is not None
    assert len(package.accepted) == 50000
    assert sum(not labels for labels in package.accepted.values()) == 3163
    assert package.accepted["ILSVRC2012_val_00000002.JPEG"] == [970, 795]
    assert package.metaclasses is not None
    assert (len(package.metaclasses), package.metaclasses.count("other")) == (1000, 278)
    assert len(set(package.metaclasses)) == 17


def test_rows_are_found_by_file_name(package):
    rows = package.rows(["n1/ILSVRC2012_val_00004487.JPEG", "ILSVRC2012_val_00003963.JPEG", "n2/none.JPEG"])
    assert rows.tolist() == [0, 1, -1]
    assert package.classes[0] == 762
    assert [package.factors[k] for k in np.flatnonzero(package.top[0])] == ["larger"]
    assert [package.factors[k] for k in np.flatnonzero(package.multi[0])] == ["pose", "background", "larger"]


def test_files_of_other_data(tmp_path):
    found = load_factors(_factors.write(tmp_path / "x"))
    assert found.names == tuple(_factors.IMAGES)
    assert found.factors == ("pose", "texture", "larger", "glow")  # ImageNet-X's order, unknown ones behind
    assert found.top[6].tolist() == [False, False, False, True]
    assert found.multi[6].tolist() == [True, True, False, True]  # the multi file has its lines backwards
    assert found.metaclasses == _factors.GROUPS
    assert found.accepted == _factors.REAL
    bare = load_factors(_factors.write(tmp_path / "y", optional=False))
    assert (bare.prototypes, bare.accepted, bare.metaclasses) == (None, None, None)
    assert bare.digest != found.digest
    assert load_factors(tmp_path / "x" / "letters_top_factor.jsonl").digest == found.digest


def test_several_pairs_in_one_folder(tmp_path):
    folder = _factors.write(tmp_path)
    for name in ("top", "multi"):
        text = (folder / f"letters_{name}_factor.jsonl").read_text()
        (folder / f"other_{name}_factor.jsonl").write_text(text)
    with pytest.raises(UsageError, match=r"holds letters_top_factor.jsonl, other_top_factor.jsonl: give one"):
        load_factors(folder)
    (folder / "other_top_factor.jsonl").rename(folder / "other_val_top_factor.jsonl")
    (folder / "other_multi_factor.jsonl").rename(folder / "other_val_multi_factor.jsonl")
    assert len(load_factors(folder).names) == len(_factors.IMAGES)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install imagenet-x==0.0.7 .*--annotations DIR"):
        load_factors()


def changed(i: int, /, values: dict[str, Any], which: int = 0) -> list[dict[str, Any]]:
    rows = _factors.records()[which]
    rows[i] = {key: value for key, value in (rows[i] | values).items() if value is not Ellipsis}
    return rows


@pytest.mark.parametrize(
    ("top", "multi", "message"),
    [
        (changed(2, {"pose": 2}), None, r"letters_top_factor.jsonl:3: 'pose' is 2; it must be 0 or 1"),
        (
            changed(2, {"pose": ...}),
            None,
            r"top_factor.jsonl:3: its factors are not those of the first line \(pose",
        ),
        (changed(1, {"class": "0"}), None, r":2: `class` is '0'"),
        (changed(1, {"class": -1}), None, r":2: `class` is -1"),
        (changed(1, {"file_name": ...}), None, r":2: expected an object with a `file_name`"),
        (changed(4, {"file_name": "1.png"}), None, r"top_factor.jsonl:5: 1.png is also in line 2"),
        (["{\n"], None, r"top_factor.jsonl:1 is not JSON"),
        (
            None,
            _factors.records()[1][:-1],
            r"multi_factor.jsonl has no line for 10.png, which is in letters_top",
        ),
        (
            _factors.records()[0][1:],
            None,
            r"top_factor.jsonl has no line for 0.png, which is in letters_multi",
        ),
        (None, changed(3, {"class": 2}, 1), r"multi_factor.jsonl: 3.png has another class than"),
        (changed(0, {"texture": 1}), None, r"0.png has several top factors"),
        (
            changed(3, {"larger": 1}),
            None,
            r"3.png has several top factors, or one that is not among all its factors",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path, top, multi, message):
    _factors.write(tmp_path, top, multi)
    with pytest.raises(DataError, match=message):
        load_factors(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("letters_real_labels.jsonl", '{"0.png": 3}', r"real_labels.jsonl: the labels of 0.png are 3"),
        ("letters_real_labels.jsonl", "[[1]\n", r"real_labels.jsonl is not JSON"),
        ("letters_real_labels.jsonl", "3", r"real_labels.jsonl: expected a list, or an object"),
        ("letters_metaclasses.csv", "group\nx\n", r"metaclasses.csv: expected a column `name`"),
        ("prototypical_paths.csv", "name\nx\n", r"prototypical_paths.csv: expected the header `file_name`"),
        ("more_real_labels.jsonl", "[]", r"holds letters_real_labels.jsonl and more_real_labels.jsonl"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, file, text, message):
    (_factors.write(tmp_path) / file).write_text(text)
    with pytest.raises(DataError, match=message):
        load_factors(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds no \*_top_factor.jsonl"):
        load_factors(tmp_path)
    (_factors.write(tmp_path) / "letters_multi_factor.jsonl").unlink()
    with pytest.raises(DataError, match=r"letters_multi_factor.jsonl does not exist"):
        load_factors(tmp_path)
    with pytest.raises(UsageError, match="give a folder of annotations"):
        load_factors(tmp_path / "letters_metaclasses.csv")


def test_images_that_do_not_fit(tmp_path):
    found = load_factors(_factors.write(tmp_path))
    with pytest.raises(DataError, match=r"a/0.png and b/0.png have one file name"):
        found.rows(["a/0.png", "b/0.png"])
    with pytest.raises(DataError, match=r"none of the 2 images \(x.png, y.png, ...\) is annotated"):
        found.rows(["x.png", "y.png"])


def test_a_list_is_in_the_order_of_imagenets_images(tmp_path):
    (_factors.write(tmp_path) / "letters_real_labels.jsonl").write_text(json.dumps([[3], []]))
    assert load_factors(tmp_path).accepted == {
        "ILSVRC2012_val_00000001.JPEG": [3],
        "ILSVRC2012_val_00000002.JPEG": [],
    }
