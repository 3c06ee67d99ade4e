"""`clipjax datasets fetch` from a server: from an empty folder to a checked data set."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from _encrypted import encrypted_zip
from _file_server import Content

from clipjax.commands import datasets_fetch as command
from clipjax.data.cards import load_dataset, read_card
from clipjax.downloads.receipts import FetchFolders, read_receipt
from clipjax.errors import DataError, UsageError
from tests.downloads._fetch_world import World, images, png, tar, zipped


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("tar", tar(images("mine"))),
        ("tar", tar(images("mine"), "w:gz")),
        ("zip", zipped(images("mine"))),
    ],
    ids=["tar", "tar.gz", "zip"],
)
def test_from_nothing_to_a_checked_data_set(world: World, kind: str, data: bytes) -> None:
    world.card("mine", data, kind=kind)
    assert "fetched" in world.fetched("mine")
    world.check("mine")
    before = world.asked
    assert "there" in world.fetched("mine")
    assert world.asked == before


def test_the_receipt_has_addresses_checksums_and_digests(world: World) -> None:
    data = tar(images("mine"))
    world.card("mine", data)
    world.fetched("mine")
    (path,) = (world.root / ".clipjax" / "receipts").iterdir()
    receipt = read_receipt(path)
    assert receipt is not None
    (file,) = receipt.files
    assert (file.address, file.bytes) == (f"{world.server.url}/mine.tar", len(data))
    assert (file.sha256, file.compared) == (hashlib.sha256(data).hexdigest(), "sha256")
    manifest = load_dataset(world.root / "mine.toml", world.root / "mine").manifest
    assert receipt.data == {"mine": manifest.digest}


def test_layout_of_the_card(world: World) -> None:
    """Leading folders are dropped, a folder is put above, and strays beside it are left out."""
    members = {f"set-1.0/deep/{name}": data for name, data in images("stimuli").items()}
    world.card(
        "mine", tar({**members, "set-1.0/deep/README": b"hello"}), place="up/mine", into="up/mine", strip=3
    )
    world.fetched("mine")
    world.check("mine")
    assert world.names() == {"up"}


def test_members_that_are_there_stay(world: World) -> None:
    """A user has one data set of an archive already: the others are placed beside it."""
    world.family()
    for name, data in images("a", 200).items():
        path = world.root / "Kinds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    mine = (world.root / "Kinds" / "a" / "cat" / "0.png").read_bytes()
    world.fetched("kinds:b")
    assert (world.root / "Kinds" / "a" / "cat" / "0.png").read_bytes() == mine
    assert (world.root / "Kinds" / "b" / "cat" / "0.png").read_bytes() == png(90)


def test_files_of_the_user(world: World, tmp_path: Path) -> None:
    data = tar(images("mine"))
    world.card("mine", data, addresses=None, needs="account", how="Register.\nSave it.\nRun fetch.")
    text = world.failure("mine")
    assert "by hand" in text
    assert "mine.tar: it needs an account" in text
    assert "mine: Register. Save it. Run fetch." in text
    (tmp_path / "mine.tar").write_bytes(data)
    world.fetched("mine", "--from", tmp_path)
    world.check("mine")
    assert (world.asked, (tmp_path / "mine.tar").read_bytes()) == (0, data)


def test_a_wrong_file_of_the_user(world: World, tmp_path: Path) -> None:
    world.card("mine", tar(images("mine")))
    (tmp_path / "mine.tar").write_bytes(tar(images("mine", 1)))
    text = world.failure("mine", "--from", tmp_path)
    assert "mine.tar is not the file that its card describes" in text
    assert world.names() == set()


def test_terms_are_accepted_before_the_first_byte(world: World) -> None:
    world.card("mine", tar(images("mine")), ask="For research alone.")
    text = world.failure("mine")
    assert "For research alone." in text
    assert "--accept mine" in text
    assert world.asked == 0
    world.fetched("mine", "--accept", "mine")
    world.check("mine")


def test_a_first_checksum_is_kept(world: World) -> None:
    world.card("mine", tar(images("mine")), sha256=None)
    assert "recorded" in world.fetched("mine")
    shutil.rmtree(world.root / "mine")
    world.server.files["/mine.tar"] = Content(tar(images("mine", 5)))
    text = world.failure("mine")
    assert "is not the file that was fetched first" in text
    assert world.names() == set()


def test_an_archive_that_is_not_the_data_set(world: World) -> None:
    """The sentence names the folder that was found in it, and the file stays for a corrected card."""
    world.card("mine", tar(images("elsewhere/mine")), into="", place="mine")
    text = world.failure("mine")
    assert "mine.tar has no folder mine, but elsewhere" in text or "mine.tar has no folder mine, but" in text
    assert "correct 'into' or 'strip' of the file, or 'place', in the card of mine" in text
    assert world.names() == set()
    (kept,) = (world.root / ".clipjax" / "downloads").rglob("*.tar")
    assert f"{kept} is kept: remove it to download it again" in text
    world.card("mine", tar(images("elsewhere/mine")), strip=1)
    world.fetched("mine")
    world.check("mine")
    assert world.asked == 1


def test_a_layout_that_is_nearly_right_is_named(world: World) -> None:
    world.card("mine", tar(images("mine/val")))
    assert "class folders are in mine/val: give that folder" in world.failure("mine")


def test_a_folder_that_something_else_fills(world: World) -> None:
    world.card("mine", tar(images("mine")))
    other = world.root / "mine" / "notes.txt"
    other.parent.mkdir()
    other.write_text("mine")
    assert "is filled already, and not as mine should be" in world.failure("mine")
    assert (world.asked, other.read_text()) == (0, "mine")


def test_data_that_changed_after_the_fetch(world: World) -> None:
    world.card("mine", tar(images("mine")))
    world.fetched("mine")
    (world.root / "mine" / "cat" / "0.png").write_bytes(png(99))
    assert "has changed since mine was fetched (its digest differs)" in world.failure("mine")
    shutil.rmtree(world.root / "mine")
    (world.root / "mine" / "cat").mkdir(parents=True)
    assert "has changed since mine was fetched" in world.failure("mine")


def test_an_empty_folder_is_filled(world: World) -> None:
    """Such as the place where a disk is mounted."""
    world.card("mine", tar(images("mine")))
    (world.root / "mine").mkdir()
    world.fetched("mine")
    world.check("mine")


def test_a_receipt_outlives_another_fetch(world: World) -> None:
    """Two cards of one archive: when one is fetched again, what is known of the other stays."""
    data = tar({**images("mine"), **images("yours", 90)})
    for name in ("mine", "yours"):
        world.card(name, data, name="both.tar", only=[f"{name}/*"], addresses=None, needs="form", how="Ask.")
    source = world.root.parent / "files"
    source.mkdir()
    (source / "both.tar").write_bytes(data)
    world.fetched("mine", "yours", "--from", source)
    shutil.rmtree(world.root / "mine")
    world.fetched("mine", "--from", source)
    (world.root / "yours" / "cat" / "0.png").write_bytes(png(3))
    assert "has changed since yours was fetched" in world.failure("yours")


def test_a_damaged_file_without_a_checksum_is_not_the_first(world: World) -> None:
    whole = tar(images("mine"), "w:gz")
    world.card("mine", whole[:-200], sha256=None)
    assert "is kept: remove it to download it again" in world.failure("mine")
    for path in (world.root / ".clipjax" / "downloads").rglob("*.tar"):
        path.unlink()
    world.server.files["/mine.tar"] = Content(whole)
    world.fetched("mine")
    world.check("mine")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"arrange": "nonsense"}, "unknown arrangement 'nonsense'"),
        ({"place": ".clipjax/mine"}, "the place of mine is in"),
    ],
)
def test_a_wrong_card_costs_no_download(world: World, how: dict[str, Any], message: str) -> None:
    world.card("mine", tar(images("mine")), **how)
    assert message in world.failure("mine")
    assert world.asked == 0


def test_one_failure_does_not_stop_the_others(world: World) -> None:
    world.card("mine", tar(images("mine")))
    world.card("yours", tar(images("yours")))
    del world.server.files["/mine.tar"]
    text = world.failure("mine", "yours")
    assert "404" in text
    world.check("yours")
    assert world.names() == {"yours"}


def test_an_encrypted_file(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encrypted_zip(tmp_path / "x.zip", images("mine"), "secret").read_bytes()
    world.card("mine", data, kind="zip", needs="password", how="Read the licence.")
    text, error = world.fetch("mine")
    assert "is encrypted: run this command on a terminal" in " ".join(text.split()), (text, error)
    assert world.asked == 0
    monkeypatch.setattr(command, "_password", lambda file: "other")
    assert "password" in world.failure("mine")
    monkeypatch.setattr(command, "_password", lambda file: "secret")
    world.fetched("mine")
    world.check("mine")


def test_too_little_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.card("mine", tar(images("mine")), bytes=len(tar(images("mine"))), unpacked=10**15)
    world.card("yours", tar(images("yours")), addresses=None, needs="form", how="Ask.")
    text = world.failure("mine", "yours")
    assert "free, and the files and their contents take about 1000.0 TB" in text
    assert "yours by hand" in text
    assert world.asked == 0


def test_a_plan_asks_nobody(world: World) -> None:
    data = tar(images("mine"))
    world.card("mine", data, bytes=len(data), ask="For research alone.", licence="CC BY-NC 4.0")
    text = world.fetched("mine", "--plan")
    for part in (f"{len(data):,} bytes", hashlib.sha256(data).hexdigest(), world.server.url, "CC BY-NC 4.0"):
        assert part in text
    (bundle,) = json.loads(world.fetched("mine", "--plan", "--json"))
    assert bundle["data_sets"] == {"mine": str(world.root / "mine")}
    assert bundle["files"][0]["addresses"] == [f"{world.server.url}/mine.tar"]
    assert (world.asked, world.names()) == (0, set())


def test_a_suite_names_its_data_sets(world: World) -> None:
    text = world.fetched("suite:table2", "--plan")
    for name in ("texture-vs-shape-1b69c6a445c3348927139edb30a5134521fd4b03.zip", "ILSVRC2012_img_val.tar"):
        assert name in text
    assert "imagenet-a.tar" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine", "--plan", "--keep"], "--plan and --keep do not go together"),
        (["mine", "--json"], "--json has no effect without --plan"),
        (["mine", "--from", "nowhere"], "nowhere is not a folder"),
        (["mine", "--accept", "yours"], "unknown data set in --accept 'yours'"),
        (["nonsense"], "unknown data set 'nonsense'"),
        (["suite:nonsense"], "unknown suite 'nonsense'"),
    ],
)
def test_options_that_contradict(world: World, arguments: list[str], message: str) -> None:
    world.card("mine", tar(images("mine")))
    _, error = world.fetch(*arguments)
    assert isinstance(error, UsageError | DataError)
    assert message in str(error)


@pytest.mark.parametrize("also", [[], ["mine"]], ids=["together", "beside one that comes later"])
def test_cards_that_take_other_members_of_one_file_share_its_download(world: World, also: list[str]) -> None:
    data = zipped({**images("a"), **images("b", 100)})
    for name in ("a", "b"):
        address = f"{world.server.url}/both.zip"
        world.card(name, data, kind="zip", addresses=[address], only=[f"{name}/*"])
        card = world.root / f"{name}.toml"
        card.write_text(card.read_text().replace(f'"{name}.zip"', '"both.zip"'))
    world.server.files["/both.zip"] = Content(data)
    world.card("mine", tar(images("mine")))
    world.fetched("a", "b", *also)
    for name in ("a", "b", *also):
        world.check(name)
    assert [request.path for request in world.server.requests].count("/both.zip") == 1


def test_kept_files_stay(world: World) -> None:
    world.card("mine", tar(images("mine")))
    world.fetched("mine", "--keep")
    (file,) = read_card(world.root / "mine.toml").files
    assert FetchFolders(world.root).download(file).exists()
