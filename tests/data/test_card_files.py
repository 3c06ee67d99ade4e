"""The files that data cards name: what a record refuses, and its facts against those that packages record."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pytest

from clipjax.data.card_files import CardFile
from clipjax.data.cards import DatasetCard, cards_of, data_folder, read_card, registered_cards
from clipjax.data.file_words import checksum_kind, checksum_words, size_words, total_words, way, way_lines
from clipjax.downloads.archives import unpack
from clipjax.downloads.arrangement import ARRANGEMENTS
from clipjax.errors import DataError
from clipjax.storage.records import read

MADE = ("stylized_imagenet", "imagenet_train_tfds")
# SPair-71k's checksum is other projects'; those of ScanNet's pairs are of a copy of LoFTR's repository.
NOT_IN_TFDS = {"SPair-71k.tar.gz", "test.npz", "intrinsics.npz"}


def file_of(**keys: object) -> CardFile:
    record = {"name": "a.tar", "kind": "tar", "addresses": ["https://host/a.tar"]} | keys
    return read(CardFile, {key: value for key, value in record.items() if value is not None}, "mine.toml")


@pytest.fixture(scope="module")
def cards() -> list[DatasetCard]:
    return [card for card in registered_cards() if not card.demo]


@pytest.fixture(scope="module")
def files(cards: list[DatasetCard]) -> dict[str, list[CardFile]]:
    """Name -> the file as each card has it."""
    found = defaultdict(list)
    for card in cards:
        for file in card.files:
            found[file.name].append(file)
    return found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"addresses": ["ftp://host/a.tar"]}, r"'ftp://host/a\.tar' is not an address: write https://HOST"),
        ({"addresses": ["https://host"]}, "is not an address"),
        ({"addresses": ["hf://vaishaal/ImageNetV2/a.tar"]}, "is not an address"),
        ({"into": "/data"}, "into = '/data' must be a folder below the data root"),
        ({"into": "a/../../b"}, "must be a folder below the data root"),
        ({"addresses": None}, r"a\.tar: give 'addresses', or 'needs'"),
        ({"needs": "account", "how": "Register."}, r"a\.tar: give 'addresses', or 'needs'"),
        ({"needs": "account", "addresses": None}, "'how' tells how to get a file that needs something"),
        ({"how": "Register."}, "and only then"),
        ({"needs": "password", "how": "1\n2\n3\n4"}, "'how' has three lines at most"),
        ({"needs": "money"}, r"needs = 'money' is not one of"),
        ({"kind": "rar"}, r"kind = 'rar' is not one of"),
        ({"sha256": "abc"}, "sha256 = 'abc' must be 64 hexadecimal digits"),
        ({"md5": "A" * 32}, "must be 32 hexadecimal digits"),
        ({"bytes": -1}, "bytes = -1 must be at least 0"),
        ({"name": "../a.tar"}, "must be the name of a file"),
    ],
)
def test_a_wrong_file_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        file_of(**keys)


def test_sizes_and_who_may_download() -> None:
    assert file_of(bytes=3, about=5).size == 3
    assert file_of(about=5).size == 5
    assert file_of().size is None
    assert file_of(needs="password", how="Read the licence.").downloadable
    assert not file_of(needs="by_hand", how="Open the page.", addresses=None).downloadable


def test_sizes_and_checksums_in_words() -> None:
    exact, rough, unknown = file_of(bytes=1234567), file_of(about=2_000_000), file_of()
    assert [size_words(file) for file in (exact, rough, unknown)] == [
        "1,234,567 bytes",
        "about 2.0 MB",
        "size unknown",
    ]
    assert total_words([exact, exact]) == "2.5 MB"
    assert total_words([exact, rough]) == "about 3.2 MB"
    assert total_words([rough, unknown]) == "over 2.0 MB"
    assert (total_words([unknown]), total_words([])) == ("unknown", "")
    md5 = file_of(md5="a" * 32)
    assert [checksum_kind(file) for file in (file_of(sha256="a" * 64), md5, unknown)] == [
        "SHA-256",
        "MD5",
        "none",
    ]
    assert checksum_words(md5) == f"MD5 {'a' * 32} (weak)"
    assert checksum_words(file_of(md5="a" * 32, addresses=["http://host/a"])).endswith(
        "over http worth little)"
    )


def test_what_a_data_set_takes_is_that_of_its_most_difficult_file() -> None:
    form = file_of(needs="form", how="Ask.", addresses=None)
    assert way([file_of(), form]) == "form"
    assert way([file_of()]) == "fetch"
    assert way([file_of(needs="by_hand", how="Open.", addresses=None)]) == "by hand"
    assert way([]) == ""
    assert way_lines("x", [file_of(), form, form]) == ["Ask."]
    assert way_lines("x", [file_of(needs="password", how="Read.")]) == [
        "Read.",
        "clipjax datasets fetch x --to /data",
    ]


def test_a_member_of_a_family_has_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "fog.toml").write_text(
        'name = "fog"\ntitle = "Fog"\nreader = "flat"\nvariants = { kind = ["a", "b"], n = [1, 2] }\n'
        '[[files]]\nname = "{kind}.tar"\nkind = "tar"\naddresses = ["https://host/{kind}.tar"]\n'
        '[[files]]\nname = "two.zip"\nkind = "zip"\naddresses = ["https://host/2.zip"]\nvariants = [2]\n'
    )
    names = {card.name: [file.name for file in card.files] for card in cards_of(tmp_path / "fog.toml")}
    assert names == {
        "fog:a:1": ["a.tar"],
        "fog:a:2": ["a.tar", "two.zip"],
        "fog:b:1": ["b.tar"],
        "fog:b:2": ["b.tar", "two.zip"],
    }


def test_every_published_data_set_names_its_files(cards: list[DatasetCard]) -> None:
    for card in cards:
        read_in_place = card.reader == "webdataset" and card.source
        assert card.files or read_in_place or card.name == "folder", card.name
    for card in cards:
        corruptions = {file.name for file in card.files}
        assert len(corruptions) == len(card.files), f"{card.name} names a file twice"
        assert card.licence or card.name == "folder", card.name
    for kind in ("imagenet_c", "imagenet_3dcc", "imagenet_v2"):
        assert {len(card.files) for card in cards if card.name.startswith(f"{kind}:")} == {1}
    for name in MADE:
        assert {file.needs for file in read_card(name).files} == {"made"}


def test_a_file_is_the_same_in_every_card(files: dict[str, list[CardFile]]) -> None:
    for name, some in files.items():
        facts = {
            (file.kind, file.addresses, file.pages, file.bytes, file.about, file.sha256, file.md5, file.needs)
            for file in some
        }
        assert len(facts) == 1, name
    assert len(files["caption_datasets.zip"]) == 3, "COCO's and Flickr30k's captions are one file"


def test_https_comes_before_http(files: dict[str, list[CardFile]]) -> None:
    for some in files.values():
        insecure = [address.startswith("http:") for address in some[0].addresses]
        assert insecure == sorted(insecure), some[0].name
        if all(insecure) and insecure:
            assert some[0].sha256 or (some[0].md5 and some[0].unverified), some[0].name


def test_terms_that_restrict_are_asked_for(cards: list[DatasetCard]) -> None:
    """Before the first byte of an image; captions and lists of pairs have other terms."""
    for card in cards:
        if re.search("ImageNet terms|Flickr terms|non-commercial|BY-NC|research|never", card.licence or ""):
            downloads = [file for file in card.files if file.downloadable]
            asked = [file.name for file in downloads if file.ask is None and file.licence is None]
            assert set(asked) <= {"caption_datasets.zip"}, card.name


def spec_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # the package is not imported
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent


def tfds_checksums() -> dict[str, set[tuple[int, str]]]:
    """File name -> sizes and SHA-256, in every table of TensorFlow Datasets."""
    root, table = spec_folder("tensorflow_datasets"), defaultdict(set)
    for path in [*root.glob("datasets/*/checksums.tsv"), *root.glob("url_checksums/*.txt")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            match line.split():
                case [address, size, digest, *name] if size.isdecimal():
                    table[name[0] if name else address.rpartition("/")[2]].add((int(size), digest))
    return table


def test_sizes_and_sha256_are_those_of_tensorflow_datasets(files: dict[str, list[CardFile]]) -> None:
    known = tfds_checksums()
    ours = {name: some[0] for name, some in files.items() if some[0].sha256}
    assert {name for name in ours if name not in known} == NOT_IN_TFDS
    for name in ours.keys() - NOT_IN_TFDS:
        assert known[name] == {(ours[name].bytes, ours[name].sha256)}, name
    assert len(ours) == 15
    without = {name for name, some in files.items() if not some[0].sha256}
    assert not without & known.keys(), "TensorFlow Datasets has their checksums"


def test_md5_are_those_of_torchvision(files: dict[str, list[CardFile]]) -> None:
    root = spec_folder("torchvision") / "datasets"
    imagenet = (root / "imagenet.py").read_text(encoding="utf-8")
    pairs = dict(re.findall(r'\("(ILSVRC2012_\w+\.tar(?:\.gz)?)", "([0-9a-f]{32})"\)', imagenet))
    assert len(pairs) == 3
    [digest] = re.findall(r'_MD5 = "([0-9a-f]{32})"', (root / "dtd.py").read_text(encoding="utf-8"))
    for name, md5 in {**pairs, "dtd-r1.0.1.tar.gz": digest}.items():
        assert files[name][0].md5 == md5, name


def unpack_one(file: CardFile, member: str, folder: Path) -> None:
    """Unpack an archive with this member alone, as `fetch` does. Raises DataError if it is not wanted."""
    archive = folder / file.name
    if file.kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(member, b"1")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.addfile(tarfile.TarInfo(member))
    unpack(archive, folder / file.into, strip=file.strip, only=file.only, progress=lambda _: None)


@pytest.mark.parametrize(
    ("name", "member", "inside"),
    [
        ("imagenet_v2:top-images", "imagenetv2-top-images-format-val/7/a.jpeg", "7/a.jpeg"),
        ("imagenet_a", "imagenet-a/n01498041/a.jpg", "n01498041/a.jpg"),
        ("imagenet_r", "imagenet-r/n01443537/a.jpg", "n01443537/a.jpg"),
        ("imagenet_o", "imagenet-o/n01443537/a.JPEG", "n01443537/a.JPEG"),
        ("imagenet_sketch", "sketch/n01440764/sketch_1.JPEG", "n01440764/sketch_1.JPEG"),
        ("imagenet_c:frost:2", "frost/2/n01440764/a.JPEG", "n01440764/a.JPEG"),
        ("imagenet_3dcc:flash:5", "flash/5/n01440764/a.JPEG", "n01440764/a.JPEG"),
        ("imagenet_d:texture", "ImageNet-D/texture/wok/0.png", "wok/0.png"),
        (
            "imagenet_vid_robust",
            "imagenet_vid_ytbb_robust/imagenet-vid-robust/val/a/0.JPEG",
            "val/a/0.JPEG",
        ),
        ("textures", "dtd/images/banded/a.jpg", "banded/a.jpg"),
        ("sun", "SUN/images/a.jpg", "images/a.jpg"),
        ("ninco", "NINCO/NINCO_OOD_classes/a b/a.jpg", "a b/a.jpg"),
        (
            "cue_conflict_16",
            "texture-vs-shape-1b69/stimuli/style-transfer-preprocessed-512/cat/cat1-dog2.png",
            "cat/cat1-dog2.png",
        ),
        ("spair71k", "SPair-71k/JPEGImages/cat/a.jpg", "JPEGImages/cat/a.jpg"),
        ("mscoco", "val2014/a.jpg", "val2014/a.jpg"),
        ("mscoco_5captions", "dataset_coco.json", "dataset_coco.json"),
        ("flickr30k", "dataset_flickr30k.json", "dataset_flickr30k.json"),
        ("flickr30k", "flickr30k-images/1.jpg", "1.jpg"),
        ("objectnet", "objectnet-1.0/images/air_freshener/a.png", "air_freshener/a.png"),
        ("scannet_pairs", "scannet_test_1500/scene0707_00/color/0.jpg", "scene0707_00/color/0.jpg"),
    ],
)
def test_unpacking_ends_where_the_card_looks(name: str, member: str, inside: str, tmp_path: Path) -> None:
    """By the layouts that are known of the archives; `fetch` checks the others."""
    card = read_card(name)
    for file in card.files:
        if file.kind != "plain":
            with contextlib.suppress(DataError):  # the card's other archive has it
                unpack_one(file, member, tmp_path)
    assert (data_folder(tmp_path, card) / inside).is_file()


def test_every_file_is_put_where_its_card_looks(cards: list[DatasetCard]) -> None:
    for card in cards:
        place = PurePosixPath(card.place or card.name)
        for file in card.files:
            assert place.is_relative_to(file.into), f"{card.name}: {file.name}"
            assert file.into, f"{card.name}: {file.name}"


def test_the_stimuli_alone_are_unpacked_of_their_repository(tmp_path: Path) -> None:
    [file] = read_card("cue_conflict").files
    for member in ("stimuli/filled-silhouettes/cat.png", "README.md"):
        with pytest.raises(DataError, match="holds no file that is wanted"):
            unpack_one(file, f"texture-vs-shape-1b69/{member}", tmp_path)


def test_arrangements_are_there(files: dict[str, list[CardFile]]) -> None:
    named = {file.arrange for some in files.values() for file in some if file.arrange is not None}
    assert named == {"imagenet_train", "imagenet_val"} == {*ARRANGEMENTS.names()}
