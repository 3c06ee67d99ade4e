"""A registry of one folder and of plug-ins: it finds, names and checks pieces, and refuses twins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _installed import install_package

from clipjax import entry_points
from clipjax.errors import DataError, UsageError
from clipjax.registry import PACKAGES, Registry

PIECE = f"from {__name__} import Piece\nINTERFACE = 1\nPIECE = Piece({{!r}})\n"


@dataclass(frozen=True)
class Piece:
    name: str


class Shelf:
    """A package with pieces, and packages that add some."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch
        self.package = f"shelf_{folder.name}"
        self.add("__init__", "")

    def add(self, module: str, source: str | None = None) -> None:
        file = self.folder / self.package / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        name = file.parent.name if file.stem == "__init__" else file.stem
        file.write_text(PIECE.format(name) if source is None else source)

    def install(self, name: str, source: str | None = None, package: str = "extra") -> Path:
        source, points = source or PIECE.format(name), f"{name} = {{module}}:PIECE"
        return install_package(self.folder, self._patch, source, points, "pieces", package)

    def pieces(self) -> Registry:
        return Registry("piece", "PIECE", group="pieces", elsewhere={"old": "old is gone"})

    def imported(self) -> set[str]:
        ours = (name for name in sys.modules if name.startswith(self.package))
        return {name.removeprefix(f"{self.package}.") for name in ours}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setitem(entry_points.INTERFACES, "pieces", 1)
    monkeypatch.syspath_prepend(tmp_path)
    made = Shelf(tmp_path, monkeypatch)
    monkeypatch.setitem(PACKAGES, "piece", made.package)
    yield made
    for name in made.imported():
        sys.modules.pop(f"{made.package}.{name}", None)


def test_modules_and_folders_are_found_without_an_import(shelf: Shelf) -> None:
    """A folder that sets or imports the record is one piece; in others the search goes on."""
    for module in ("near", "inner/far", "set_here/__init__", "brought/piece"):
        shelf.add(module)
    shelf.add("brought/__init__", f"from {shelf.package}.brought.piece import Other, PIECE\n")
    shelf.add("inner/__init__", '"""Folders with a PIECE."""\n')
    shelf.add("set_here/part")
    shelf.add("helper", "PIECES = ' PIECE'\n    PIECE = 1\nfrom elsewhere import PIECE\n")
    shelf.install("added")
    pieces = shelf.pieces()
    assert pieces.names() == ("added", "brought", "far", "near", "set_here")
    dotted = {name: module.dotted.removeprefix(f"{shelf.package}.") for name, module in pieces.own().items()}
    assert dotted == {"brought": "brought", "far": "inner.far", "near": "near", "set_here": "set_here"}
    assert list(pieces.plug_ins()) == ["added"]
    assert pieces.source("far") == PIECE.format("far")
    assert pieces.source("added") == PIECE.format("added")
    assert shelf.imported() == {shelf.package}


def test_only_the_piece_that_is_asked_for_is_imported(shelf: Shelf) -> None:
    shelf.add("whole/__init__")
    shelf.add("other", "raise ImportError('nobody asked for it')\nPIECE = 1\n")
    shelf.install("broken", "INTERFACE = 1\nraise ImportError('no backend')\n")
    pieces = shelf.pieces()
    assert pieces.find("whole", Piece) == Piece("whole")
    assert shelf.imported() == {shelf.package, "whole"}
    with pytest.raises(DataError, match=r"^the plug-in package extra 2\.1: its piece 'broken' .*no backend"):
        pieces.find("broken", Piece)


def test_every_record_by_name(shelf: Shelf) -> None:
    shelf.add("near")
    shelf.install("added")
    pieces = shelf.pieces()
    assert pieces.all(Piece) == {"added": Piece("added"), "near": Piece("near")}
    assert pieces.find("added", Piece) is pieces.find("added", Piece)
    made_by = {"kind": "piece", "name": "added", "package": "extra", "version": "2.1"}
    assert pieces.plug_ins()["added"].made_by == made_by


def test_two_of_our_pieces_with_one_name_are_a_mistake(shelf: Shelf) -> None:
    shelf.add("far")
    shelf.add("inner/far")
    shelf.add("inner/__init__", "")
    with pytest.raises(ValueError, match=rf"^{shelf.package}\.far and .*\.inner\.far have one name: rename"):
        shelf.pieces().names()


@pytest.mark.parametrize("own", [True, False])
def test_a_plug_in_with_a_name_that_is_taken_is_refused(shelf: Shelf, own: bool) -> None:
    if own:
        shelf.add("added")
    else:
        shelf.install("added", package="another")
    shelf.install("added")
    owner = "clipjax itself" if own else r"the plug-in package another 2\.1"
    with pytest.raises(DataError, match=rf"its piece 'added' .* has the name of one of {owner}: rename or"):
        shelf.pieces().names()


def test_an_unknown_name_has_the_nearest_of_both_sides(shelf: Shelf) -> None:
    shelf.add("colours")
    shelf.install("colour_words")
    pieces = shelf.pieces()
    with pytest.raises(UsageError, match=r"^unknown piece 'colour'; did you mean colours, colour_words\?$"):
        pieces.find("colour", Piece)
    with pytest.raises(UsageError, match=r"^old is gone$"):
        pieces.check("old")
    assert str(pieces.unknown("shapes", ["shape"])) == "unknown piece 'shapes'; did you mean shape?"
    pieces.check("colours")


def test_a_record_of_another_type_or_name_is_refused(shelf: Shelf) -> None:
    shelf.add("number", "PIECE = 3\n")
    shelf.add("renamed", PIECE.format("first"))
    shelf.install("added", PIECE.format("second"))
    shelf.install("text", "INTERFACE = 1\nPIECE = 'text'\n", package="another")
    pieces = shelf.pieces()
    with pytest.raises(ValueError, match=r"^PIECE of number\.py is of type int, not Piece$"):
        pieces.find("number", Piece)
    with pytest.raises(ValueError, match=r"^the piece of renamed\.py is called 'first': give both one name$"):
        pieces.find("renamed", Piece)
    with pytest.raises(DataError, match=r"its piece 'text' .* is of type str, not Piece$"):
        pieces.find("text", Piece)
    with pytest.raises(DataError, match=r"its piece 'added' .* calls itself 'second': give both one name$"):
        pieces.find("added", Piece)


def test_a_plug_in_without_its_record_is_refused(shelf: Shelf) -> None:
    shelf.install("added", "INTERFACE = 1\n")
    pieces = shelf.pieces()
    assert pieces.names() == ("added",)
    with pytest.raises(DataError, match=r"its piece 'added' .*AttributeError: .* has no attribute 'PIECE'"):
        pieces.find("added", Piece)


def test_a_plug_in_that_goes_is_forgotten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = shelf.pieces()
    assert pieces.names() == ()
    site = shelf.install("added")
    assert pieces.find("added", Piece) == Piece("added")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(site)])
    with pytest.raises(UsageError, match="unknown piece 'added'"):
        pieces.find("added", Piece)


def test_without_a_group_other_packages_add_nothing(shelf: Shelf) -> None:
    shelf.add("near")
    shelf.install("added")
    assert Registry("piece", "PIECE").names() == ("near",)
