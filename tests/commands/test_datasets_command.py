"""`clipjax datasets` from outside: lists, whole cards, one data set, and all below a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _colours import COLOURS, paint
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.data.cards import dataset_names, read_card
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.tasks.task import all_tasks


def invoke(*arguments: object) -> tuple[str, BaseException | None]:
    """(stdout, the error) of one command."""
    done = CliRunner().invoke(app, ["datasets", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, ClipjaxError), done.exception
    return done.stdout, done.exception


def table(text: str) -> dict[str, str]:
    """The lines below the rule, by their first word."""
    lines = text.splitlines()[2:]
    return {line.split()[0]: line for line in lines if line.strip()}


def test_list_has_every_card_and_a_line_for_a_family():
    lines = table(invoke("list")[0])
    assert set(lines) == {name.partition(":")[0] + (":*" if ":" in name else "") for name in dataset_names()}
    assert "(60)" in lines["imagenet_3dcc:*"]
    for word in ("zeroshot", "imagenet-r", "30000", "2.2 GB", "fetch"):
        assert word in lines["imagenet_r"]
    for name, word in {"imagenet_val": "account", "flickr30k": "form", "objectnet": "password"}.items():
        assert word in lines[name].split()
    assert "MIT" in invoke("show", "imagenet_r")[0], "what a narrow table has no room for"
    assert max(map(len, lines.values())) <= 190


def test_list_of_one_task_and_as_json():
    names = {card["name"] for card in json.loads(invoke("list", "--task", "ood", "--json")[0])}
    assert {"ninco", "textures", "imagenet_o"} <= names
    assert names == {name for name in dataset_names() if "ood" in read_card(name).tasks}
    assert isinstance(invoke("list", "--task", "odd")[1], UsageError)
    cards = json.loads(invoke("list", "--json")[0])
    assert [card["name"] for card in cards].count("imagenet_v2:top-images") == 1


def test_every_card_names_tasks_that_are_there():
    for name in dataset_names():
        assert set(read_card(name).tasks) <= set(all_tasks()), name


def test_show_says_everything(tmp_path):
    text, _ = invoke("show", "imagenet_r")
    card = read_card("imagenet_r")
    for part in (card.title, card.source, card.licence, card.note, card.tfds):
        assert part
        assert part in text
    text, _ = invoke("show", "imagenet_v2")
    assert text.startswith("imagenet_v2 stands for 3 data sets, imagenet_v2:SELECTION\n")
    assert "selection: matched-frequency, threshold0.7, top-images\n" in text
    assert json.loads(invoke("show", "imagenet_v2:top-images", "--json")[0])[0]["images"] == 10000
    (tmp_path / "mine.toml").write_text('name = "mine"\ntitle = "Mine"\nreader = "flat"\n')
    assert "title: Mine" in invoke("show", tmp_path / "mine.toml")[0]
    assert "did you mean imagenet_r" in str(invoke("show", "imagenet_rr")[1])


def test_show_tells_how_to_get_the_data():
    text, _ = invoke("show", "imagenet_a")
    assert "get: fetch\n  clipjax datasets fetch imagenet_a --to /data\n" in text
    [file] = read_card("imagenet_a").files
    for part in ("687.6 MB", "687,552,512 bytes", f"SHA-256 {file.sha256}", *file.addresses):
        assert part in text
    text, _ = invoke("show", "sun")
    assert "(weak, over http worth little)" in text
    assert "you are asked: For non-commercial research alone" in text
    assert "unverified: The MD5 is known from one other project alone" in text
    text, _ = invoke("show", "imagenet_3dcc:flash:1")
    assert "no checksum known: it is recorded at the first fetch" in text
    assert "from https://datasets.epfl.ch/3dcc/imagenet_3dcc/flash.tar.gz" in text
    text, _ = invoke("show", "imagenet_val")
    assert "get: account\n  Register at https://image-net.org" in text
    assert "fetch imagenet_val --from DIR --to /data" in text
    assert "--to /data" not in text.replace("--from DIR --to /data", "")
    assert "in-distribution images of: imagenet_o, inaturalist" in text


def test_show_of_a_family_has_each_file_once():
    text, _ = invoke("show", "imagenet_c")
    assert [text.count(f"\n{part}.tar: about") for part in ("noise", "blur", "extra")] == [1, 1, 1]
    assert "size: about 62.0 GB\n" in text
    assert "clipjax datasets fetch imagenet_c --to /data" in text
    assert "noise.tar" not in invoke("show", "imagenet_c:fog:3")[0]


def test_json_has_every_file_and_no_empty_key():
    [record] = json.loads(invoke("show", "scannet_pairs", "--json")[0])
    assert [file["name"] for file in record["files"]] == [
        "scannet_test_1500.tar",
        "test.npz",
        "intrinsics.npz",
    ]
    assert record["files"][1]["bytes"] == 71687
    assert "sha256" not in record["files"][0]
    assert "null" not in invoke("list", "--json")[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two data sets of the user's own, and a shipped card's place that holds something else."""
    for colour in COLOURS:
        paint(tmp_path / "colours" / colour / "0.png", colour)
    classes = json.dumps(list(COLOURS))
    card = (
        f'name = "colours"\ntitle = "Colours"\nreader = "folder"\nclasses = {classes}\ntasks = ["zeroshot"]\n'
    )
    (tmp_path / "colours.toml").write_text(card)
    (tmp_path / "other.toml").write_text(card.replace('"colours"', '"other"'))
    (tmp_path / "imagenet-r" / "n01443537").mkdir(parents=True)
    return tmp_path


def test_show_draws_images_with_their_labels(data):
    picture, drawn = data / "colours.svg", []
    for _ in range(2):
        arguments = (data / "colours.toml", "--data", data / "colours", "--picture", picture)
        text, error = invoke("show", *arguments)
        assert error is None
        assert text == f"{picture}: Colours: 8 of 8 images\n"
        drawn.append(picture.read_text())
    assert drawn[0] == drawn[1], "the same images give the same picture"
    for word in (*COLOURS, "red/0.png", "licence: not stated"):
        assert word in drawn[0]


def test_show_refuses_a_picture_that_it_cannot_draw(data):
    card, folder = data / "colours.toml", data / "colours"
    for arguments, message in (
        (("--picture", data / "a.png"), "--picture needs --data, the folder of the data set"),
        (("--data", folder), "--data has no effect without --picture"),
        (("--data", folder, "--picture", data / "a.gif"), "a.gif must end in .png"),
        (
            ("--data", folder, "--picture", data / "a.png", "--json"),
            "--picture and --json do not go together",
        ),
    ):
        assert message in str(invoke("show", card, *arguments)[1])
    card.write_text(card.read_text() + 'hidden = "patients did not agree"\n')
    error = invoke("show", card, "--data", folder, "--picture", data / "a.png")[1]
    assert "the images of colours may not be shown: patients did not agree" in str(error)
    assert not list(data.glob("a.*"))


def test_check_of_one_data_set(data):
    assert invoke("check", data / "colours.toml", data / "colours")[0].endswith(
        f"fine for data set '{data / 'colours.toml'}'\n"
    )
    text, error = invoke("check", "imagenet_r", data / "imagenet-r")
    assert str(error).endswith(": 1 problem for data set 'imagenet_r'")
    assert "wrong class folders: missing " in text
    assert isinstance(error, DataError)
    (data / "colours" / "red" / "0.png").write_bytes(b"no image")
    assert (
        "red/0.png: not an image in JPEG, PNG, PPM, BMP, TIFF, WebP or GIF"
        in invoke("check", data / "colours.toml", data / "colours")[0]
    )
    assert invoke("check", data / "colours.toml", data / "colours", "--no-decode")[1] is None


def test_check_says_what_a_cards_tasks_would_miss(data):
    card = data / "colours.toml"
    text = card.read_text()
    card.write_text(text.replace('["zeroshot"]', '["imagenet_x"]') + 'annotations = "gone"\n')
    assert "gone holds no *_top_factor.jsonl" in invoke("check", card, data / "colours")[0]
    card.write_text(text.replace('["zeroshot"]', '["ood"]') + 'id = "goneset"\n')
    assert "unknown data set 'goneset'" in invoke("check", card, data / "colours")[0]
    card.write_text(text.replace('["zeroshot"]', '["zeroshoot"]'))
    assert "card colours: unknown task 'zeroshoot'" in invoke("check", card, data / "colours")[0]


def test_check_all_is_a_table_of_found_missing_and_problem(data):
    text, error = invoke("check", "--all", data)
    lines = table(text)
    assert lines["colours"].split()[1] == "found"
    assert lines["other"].split()[1] == "missing"
    assert lines["imagenet_a"].split()[1:] == ["missing", "7500", str(data / "imagenet-a")]
    assert lines["imagenet_r"].split()[1] == "problem"
    assert "wrong class folders" in lines["imagenet_r"]
    assert lines["imagenet_3dcc:*"].split()[1:3] == ["(60)", "missing"]
    assert not any(name.startswith("demo") for name in lines)
    assert str(error) == f"{data}: 1 data set has problems: imagenet_r"
    (data / "imagenet-r" / "n01443537").rmdir()
    (data / "imagenet-r").rmdir()
    assert invoke("check", "--all", data)[1] is None, "what is missing is no error"


def test_images_are_read_only_when_asked_below_a_common_folder(data):
    (data / "imagenet-r" / "n01443537").rmdir()
    (data / "imagenet-r").rmdir()
    (data / "colours" / "red" / "0.png").write_bytes(b"no image")
    assert table(invoke("check", "--all", data)[0])["colours"].split()[1] == "found"
    assert "red/0.png" in table(invoke("check", "--all", data, "--decode")[0])["colours"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a card's name and the folder of its data: clipjax datasets check NAME PATH"),
        (["imagenet_val"], "clipjax datasets check NAME PATH"),
        (["/data", "--dataset", "imagenet_val"], "name first: clipjax datasets check imagenet_val /data"),
        (["/data", "imagenet_val"], "name first: clipjax datasets check imagenet_val /data"),
        (["imagenet_val", "--all", "/data"], "--all and NAME do not go together"),
    ],
)
def test_the_order_of_the_arguments(arguments, says):
    error = invoke("check", *arguments)[1]
    assert isinstance(error, UsageError)
    assert says in str(error)
