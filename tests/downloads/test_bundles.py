"""Which data sets come in the same files, and what was fetched of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from clipjax.data.cards import read_card
from clipjax.downloads.bundles import Bundle, bundles_of, cards_named
from clipjax.downloads.receipts import FetchedFile, FetchFolders, Receipt, read_receipt
from clipjax.errors import DataError, UsageError

CARD = """
name = "{name}"
title = "Mine"
reader = "folder"

[[files]]
name = "mine.tar"
addresses = ["{address}"]
kind = "tar"
"""


def card(folder: Path, name: str, address: str = "https://example.org/mine.tar") -> None:
    (folder / f"{name}.toml").write_text(CARD.format(name=name, address=address))


def named(root: Path, *names: str) -> list[Bundle]:
    return bundles_of(cards_named(names, root), root)


def test_a_file_of_many_data_sets_is_one_bundle(tmp_path: Path) -> None:
    bundles = named(tmp_path, "imagenet_c")
    assert [len(bundle.cards) for bundle in bundles] == [15, 20, 20, 20, 20]
    noise = bundles[0]
    assert [file.name for file in noise.files] == ["noise.tar"]
    assert {card.variant["corruption"] for card in noise.cards} == {
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
    }
    assert noise.title == "imagenet_c:gaussian_noise:1 and 14 more"


def test_an_archive_comes_with_all_of_its_data_sets(tmp_path: Path) -> None:
    """Those that were not asked for are unpacked, too: they are checked, or not placed over what is there."""
    (bundle,) = named(tmp_path, "imagenet_c:snow:3")
    assert (bundle.cards[0].name, len(bundle.cards)) == ("imagenet_c:snow:3", 20)
    assert bundle.files[0].name == "weather.tar"


def test_data_sets_of_equal_files_come_together(tmp_path: Path) -> None:
    (bundle,) = named(tmp_path, "mscoco", "mscoco_5captions", "mscoco")
    assert [card.name for card in bundle.cards] == ["mscoco", "mscoco_5captions"]


def test_all_is_every_card_with_files(tmp_path: Path) -> None:
    card(tmp_path, "mine")
    cards = cards_named(["all"], tmp_path)
    assert all(card.files for card in cards)
    assert {"mine", "imagenet_r", "imagenet_v2:top-images", "objectnet"} <= {card.name for card in cards}
    bundles_of(cards, tmp_path)


def test_names_that_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown data set 'imagenet_rr'; did you mean imagenet_r"):
        cards_named(["imagenet_rr"], tmp_path)
    with pytest.raises(UsageError, match=r"the card of demo_val names no files to fetch"):
        cards_named(["demo_val"], tmp_path)


def test_a_card_in_the_data_root_or_in_a_file(tmp_path: Path) -> None:
    card(tmp_path, "mine")
    assert named(tmp_path, "mine")[0].files[0].name == "mine.tar"
    assert named(tmp_path / "elsewhere", str(tmp_path / "mine.toml"))[0].cards[0].name == "mine"


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """By their addresses and checksums: none is taken for the other."""
    card(tmp_path, "mine")
    card(tmp_path, "yours", "https://example.org/other/mine.tar")
    mine, yours = named(tmp_path, "mine", "yours")
    folders = FetchFolders(tmp_path)
    assert mine.key != yours.key
    assert folders.download(mine.files[0]) != folders.download(yours.files[0])
    folders.remember(mine.files[0], 64 * "a")
    assert folders.first_checksum(yours.files[0]) is None


def test_other_members_of_one_archive_are_another_bundle(tmp_path: Path) -> None:
    card(tmp_path, "mine")
    card(tmp_path, "yours")
    with (tmp_path / "yours.toml").open("a") as file:
        file.write('only = ["yours/*"]\n')
    mine, yours = named(tmp_path, "mine", "yours")
    assert mine.key != yours.key
    assert mine.files[0].identity == yours.files[0].identity


def test_asks_each_sentence_once(tmp_path: Path) -> None:
    (bundle,) = named(tmp_path, "imagenet_c:snow:3")
    assert len(bundle.asks) == 1
    assert "non-commercial" in bundle.asks[0]


def test_a_receipt_is_read_as_it_was_written(tmp_path: Path) -> None:
    files = (FetchedFile("a.tar", "https://example.org/a.tar", None, 11, 64 * "0", "sha256"),)
    receipt = Receipt(files, ("Research alone.",), {"mine": "abc"}, "2026-12-01T00:00:00+00:00")
    receipt.write(tmp_path / "receipt.json")
    assert read_receipt(tmp_path / "receipt.json") == receipt
    assert read_receipt(tmp_path / "none.json") is None
    (tmp_path / "receipt.json").write_text('{"files": [{"name": 3}]}')
    with pytest.raises(DataError, match=r"receipt.json: .*name.*remove that file"):
        read_receipt(tmp_path / "receipt.json")


def test_the_first_checksum_stays(tmp_path: Path) -> None:
    folders, (file,) = FetchFolders(tmp_path), read_card("imagenet_o").files
    assert folders.first_checksum(file) is None
    folders.remember(file, 64 * "a")
    folders.remember(file, 64 * "b")
    assert folders.first_checksum(file) == 64 * "a"


def test_a_second_fetch_waits_for_the_first(tmp_path: Path) -> None:
    said, ended = [], threading.Event()
    folders = FetchFolders(tmp_path)

    def second() -> None:
        with folders.locked(said.append):
            ended.set()

    with folders.locked(said.append):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        assert not ended.is_set()
    thread.join()
    assert (ended.is_set(), len(said)) == (True, 1)
    assert "another fetch writes to" in said[0]
