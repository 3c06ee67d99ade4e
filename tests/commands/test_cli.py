"""The command line from outside: what it prints where, and the exit code and sentence of every bad input."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import subprocess
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from _colours import ColourModel, paint
from _long import mostly_long
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

import clipjax
from clipjax import cli
from clipjax.data.pixels.decoders import Decoders
from clipjax.evaluation.models import encoders
from clipjax.results.runs.failed_runs import FOLDER as FAILED
from clipjax.verification.verify import StageCheck, VerificationReport, verify

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted tf_efficientnet_lite0 with timm's random weights."""
    import timm

    folder = tmp_path_factory.mktemp("lite0")
    model = timm.create_model("tf_efficientnet_lite0").state_dict()
    save_file({key: value.numpy() for key, value in model.items()}, folder / "w.safetensors")
    code, _ = invoke(
        *("convert", folder / "w.safetensors", "-m", "tf_efficientnet_lite0-in1k"),
        *("-o", folder / "m", "--name", "random-lite0"),
    )
    assert code == 0
    return folder / "m"


def eval_of(model: Path, data: Path, folder: Path) -> list[object]:
    """`clipjax eval zeroshot` with a store and results in `folder`; the three photos in a small batch."""
    places = ["--data", data, "--store", folder / "store", "--results", folder / "results"]
    return ["eval", "zeroshot", "-m", model, *places, "--batch-size", 1]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("n01440764/a.png", "n01440764/b.png", "n02123045/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def invoke(*arguments: object) -> tuple[int, str]:
    """(exit code, the sentence of the error) of one command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["clipjax", *map(str, arguments)])
        patch.setattr("clipjax.devices.signals.handled", contextlib.nullcontext)
        lines: list[str] = []
        patch.setattr(cli, "print", lambda text, file=None: lines.append(text), raising=False)
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0), "\n".join(lines)
    return 0, ""


def test_models_lists_and_shows_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("models")[0] == 0
    assert "vit_b_32-openai" in capsys.readouterr().out
    assert invoke("models", "vit_b_32-openai")[0] == 0
    card = json.loads(capsys.readouterr().out)
    assert card["arch"]["vision"]["activation"] == "quick_gelu"


def test_convert_for_another_image_size(tmp_path: Path) -> None:
    tiny = Path(__file__).parents[1] / "golden" / "tiny_vit"
    assert invoke("convert", tiny, "-o", tmp_path / "m", "--image-size", 40)[0] == 0
    card = json.loads((tmp_path / "m" / "card.json").read_text())
    assert card["preprocess"]["image_size"] == card["arch"]["vision"]["image_size"] == 40
    assert card["resized"]["rule"] == "open_clip"
    code, says = invoke("convert", tiny, "-o", tmp_path / "n", "--image-size", 41)
    assert (code, (tmp_path / "n").exists()) == (2, False), says
    assert "41" in says


def test_eval_prints_rows_on_stdout_and_progress_on_stderr(
    lite0: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, results = tmp_path / "store", tmp_path / "results"
    command = eval_of(lite0, photos, tmp_path)
    capsys.readouterr()
    assert invoke(*command, "--json")[0] == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert rows
    assert all(row["model"] == "random-lite0" for row in rows)
    assert invoke(*command)[0] == 0
    assert len(list(results.iterdir())) == 2, "a second run is added, nothing is overwritten"
    assert invoke("results", "list", results)[0] == 0
    exported = tmp_path / "not" / "there" / "rows.csv"
    assert invoke("results", "export", results, "--out", exported)[0] == 0
    assert "random-lite0" in exported.read_text()
    code, says = invoke("results", "export", results, "--out", exported / "below.csv")
    assert (code, "below.csv cannot be written" in says) == (1, True)
    assert invoke("store", "list", "--store", store)[0] == 0
    assert invoke("store", "gc", "0B", "--store", store)[0] == 0


def test_without_labels_only_predictions_are_printed(
    lite0: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert invoke(*eval_of(lite0, photos / "n01440764", tmp_path)) == (0, "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "prediction", "confidence"]
    assert [line.split()[0] for line in lines[2:4]] == ["a.png", "b.png"]
    assert lines[4:] == ["", "top1: not applicable: the data set has no labels"]


def test_a_seed_without_a_limit_is_that_of_bootstraps(
    lite0: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    command = eval_of(lite0, photos, tmp_path)
    code, says = invoke(*command, "--seed", 3, "--resamples", 100, "--json")
    assert (code, says) == (0, "")
    row = json.loads(capsys.readouterr().out)[0]
    assert row["recipe"]["bootstrap"] == {"resamples": 100, "seed": 3}
    assert row["sample"] is None


def test_tasks_lists_what_can_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("tasks") == (0, "")
    printed = capsys.readouterr().out
    for name in ("zeroshot", "retrieval", "text, captions", "shifts", "prompts", "all"):
        assert name in printed
    assert invoke("tasks", "--json") == (0, "")
    listed = json.loads(capsys.readouterr().out)
    retrieval = next(task for task in listed["tasks"] if task["name"] == "retrieval")
    assert (retrieval["needs"], retrieval["convention"]["k"]) == (["text", "captions"], [1, 5, 10])
    assert "zeroshot" in listed["collections"]["shifts"]["tasks"]
    assert invoke("tasks", "ood") == (0, "")
    shown = capsys.readouterr().out
    assert "fpr95 imagenet o: OOD positive, recall closest to 0.95" in shown
    assert "headlines: class_mean_auroc, else auroc" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert invoke("tasks", "ood", "--json") == (0, "")
    assert json.loads(capsys.readouterr().out)["needs"] == ["head", "id"]
    assert invoke("tasks", "odd")[0] == 2


def test_rows_of_a_resized_model_say_so(
    lite0: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("convert", lite0, "-o", tmp_path / "m", "--image-size", 64)[0] == 0
    capsys.readouterr()
    assert invoke(*eval_of(tmp_path / "m", photos, tmp_path), "--json")[0] == 0
    facts = json.loads(capsys.readouterr().out)[0]["model_facts"]
    assert (facts["image_size"], facts["resized"]) == (64, {"image_size": 224, "rule": None})
    assert invoke("results", "list", tmp_path / "results")[0] == 0
    assert "random-lite0@64px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["models", "vit_b32-openai"], 2, "vit_b_32-openai"),
        (["eval", "zeroshoot", "-m", "x", "--data", "y"], 2, "zeroshot"),
        (["eval", "zeroshot", "-m", "vit_b_32-opena", "--data", "."], 2, "vit_b_32-openai"),
        (["eval", "zeroshot", "-m", "aimv2_large", "--data", "."], 2, "give torch:LIBRARY:NAME"),
        (["eval", "zeroshot", "-m", "RN50x4-quickgelu", "--data", "."], 2, "or torch:open_clip:RN50x4-q"),
        (["eval", "zeroshot", "-m", "ViT-B-32", "--data", "."], 2, "another of `clipjax models` (19 in all)"),
        (["eval", "zeroshot", "-m", "./gone", "--data", "."], 1, "./gone does not exist"),
        (["eval", "zeroshot", "-m", "vit_b_32-openai", "--data", "gone"], 1, "gone does not exist"),
        (["eval", "zeroshot", "--predictions", "gone.csv"], 1, "gone.csv does not exist; give a .parquet"),
        (["convert", "gone.pt", "-m", "vit_b_32-openai"], 1, "gone.pt does not exist"),
        (["convert", __file__, "-m", "vit_b_32-openai"], 1, "not a checkpoint"),
        (["verify", "gone/dir"], 1, "gone/dir"),
        (["datasets", "check", "folder", "gone"], 1, "gone"),
        (["datasets", "check", "imagenet_vall", "."], 2, "imagenet_val"),
        (["store", "gc", "1XB"], 2, "1XB"),
        (["store", "list", "--store", "gone"], 1, "gone does not exist"),
        (["store", "list", "--store", __file__], 1, "is a file"),
        (["results", "list", "gone"], 1, "gone does not exist"),
        (["results", "list", __file__], 1, "is a file"),
        (["results", "export", "gone"], 1, "gone does not exist"),
        (["results", "merge", "gone", "--out", "all"], 1, "gone does not exist; give the folder that"),
        (["compare", "a", "b", "--results", "gone"], 1, "gone does not exist"),
        (["compare", "a", "b", "--results", __file__], 1, "is a file"),
        (["compare", "a", "b", "--resamples", "99"], 2, ""),
        (["compare", "a"], 2, ""),
        (["eval"], 2, ""),
        (["no-such-command"], 2, ""),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, says: str) -> None:
    got, sentence = invoke(*arguments)
    assert got == code, sentence
    assert says in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["models", "vit_b_32-openai", "--group", "clip"], "the model vit_b_32-openai and --group"),
        (["models", "vit_b_32-openai", "--markdown"], "the model vit_b_32-openai and --markdown"),
        (["models", "--json", "--markdown"], "--json and --markdown"),
        (["models", "--json", "--by-family"], "--json and --by-family"),
        (["models", "--aot", "v4", "--by-family", "--markdown"], "--aot and --by-family, --markdown"),
        (["verify", "m", "--record", "r.json", "--limit", "1"], "the model m and --record, --limit"),
        (["verify", "--all", "--random-init", "--against", "timm"], "--all and --against"),
        (["verify", "--all", "--random-init", "--card", "x"], "--all and --card"),
        (["verify", "m", "--golden", "g.npz"], "--golden"),
        (["eval", "zeroshot", "-m", "x"], "give one of --data, --data-root, --predictions"),
        (["eval", "zeroshot", "-m", "x", "--data", ".", "--data-root", "."], "not --data and --data-root"),
        (
            ["eval", "zeroshot", "-m", "x", "--data-root", ".", "--predictions", "p"],
            "not --data-root and --pred",
        ),
        (
            ["eval", "zeroshot", "-m", "x", "--data-root", ".", "--dataset", "folder"],
            "--data-root and --dataset do not go together",
        ),
        (
            ["eval", "zeroshot", "-m", "x", "--data", ".", "--prompts", "single", "--prompts", "openai_7"],
            "several --prompts need --data-root",
        ),
        (["eval", "zeroshot", "--data", "."], "say which model"),
        (["eval", "shifts", "-m", "x", "--data", "."], "'shifts' is a collection of tasks"),
        (
            ["eval", "correspondence", "-m", "x", "--data", ".", "--decode", "full", "--batch-size", "64"],
            "the task correspondence and --batch-size, --decode do not go together",
        ),
        (
            ["eval", "zeroshot", "-m", "x", "--data", ".", "--keep-maps"],
            "the task zeroshot and --keep-maps do not go together",
        ),
        (["eval", "all", "--predictions", "p.csv"], "'all' is a collection of tasks"),
        (["eval", "zeroshot", "-m", "", "--data", "."], "--model is empty: give a value, or leave it out"),
        (["eval", "zeroshot", "-m", "x", "--data", ".", "--prompts", ""], "--prompts is empty"),
        (["eval", "zeroshot", "-m", "x", "--data", ".", "--labels", ""], "--labels is empty"),
        (["eval", "", "-m", "x", "--data", "."], "TASK is empty"),
        (["eval", "zeroshot", "-m", "x", "--data", ""], "--data is empty: give a value, or leave it out"),
        (["results", "merge", ".", "", "--out", "x"], "RESULTS... is empty"),
        (["analyze", ""], "RESULTS is empty"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(arguments: list[str], says: str) -> None:
    code, sentence = invoke(*arguments)
    assert (code, says in sentence, "\n" in sentence) == (2, True, False), sentence


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("zeroshot", ["--data", "gone"], "gone does not exist"),
        ("zeroshot", ["--precision", "fats"], "unknown precision 'fats'; did you mean fast?"),
        ("zeroshot", ["--decode", "half"], "unknown way to decode 'half'"),
        ("ood", [], "is compared with in-distribution images: say where 'imagenet_val' is"),
        ("ood", [], "they are ImageNet's, as photos has no card with an `id`"),
        ("zeroshot", ["--results", "photos/results"], "where each folder is a class: give another folder"),
    ],
)
def test_wrong_data_and_settings_are_refused_before_a_model_is_loaded(
    task: str, options: list[str], says: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr(encoders, "load_model", lambda *_, **__: pytest.fail("a model is loaded"))
    code, sentence = invoke("eval", task, "-m", "vit_b_32-openai", "--data", "photos", *options)
    assert (code in (1, 2), says in sentence) == (True, True), sentence


@pytest.mark.parametrize("option", ["--card", "--model", "-m"])
def test_what_bare_weights_are_has_one_name_in_every_command(option: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_text("no weights")
    for command in (["convert"], ["verify"], ["eval", "zeroshot", "--data", tmp_path, "-m"]):
        if command[0] == "eval" and option != "--card":  # there --model is the weights
            continue
        code, says = invoke(*command, tmp_path / "w.pt", option, "vit_b_32-openay")
        assert (code, "unknown model 'vit_b_32-openay'" in says) == (2, True), says


def test_python_m_clipjax_is_clipjax(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "main", lambda: print("clipjax"))
    runpy.run_module("clipjax", run_name="__main__")
    assert capsys.readouterr().out == "clipjax\n"


def test_ctrl_c_while_the_command_line_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopping(MetaPathFinder):
        def find_spec(self, fullname: str, *_: Any) -> None:
            if fullname == "clipjax.cli":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Stopping(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "clipjax.cli")
    monkeypatch.delattr(clipjax, "cli")
    with pytest.raises((SystemExit, KeyboardInterrupt)) as end:
        runpy.run_module("clipjax", run_name="__main__")
    assert (getattr(end.value, "code", None), capsys.readouterr().err) == (
        130,
        "clipjax: stopped before it began\n",
    )


def test_help_loses_no_bracket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes [word] for markup; what is written in a help text must be on the screen."""
    monkeypatch.setenv("COLUMNS", "100")

    def shown(command: Any, path: tuple[str, ...]) -> None:
        texts = [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
        screen = "".join(CliRunner().invoke(cli.app, [*path, "--help"]).stdout.replace("│", "").split())
        for bracket in re.findall(r"\[[^\]]*\]", " ".join(texts)):
            assert "".join(bracket.split()) in screen, f"clipjax {' '.join(path)} --help loses {bracket}"
        for name, inner in getattr(command, "commands", {}).items():
            shown(inner, (*path, name))

    shown(typer.main.get_command(cli.app), ())


def test_bad_data_is_named(
    lite0: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, says = invoke(*eval_of(lite0, tmp_path / "empty", tmp_path))
    assert (code, "empty" in says) == (1, True)
    (photos / "n02123045" / "broken.png").write_bytes(b"not an image")
    code, says = invoke(*eval_of(lite0, photos, tmp_path))
    assert (code, "broken.png" in says) == (1, True)
    left = [path.name for path in (tmp_path / "results").iterdir()]
    assert left == [FAILED], "nothing half-written, but the records of failed runs"
    code, says = invoke(*eval_of(lite0, photos, tmp_path), "--on-error", "skip")
    assert (code, says) == (0, "")
    assert "1 unreadable image skipped: n02123045/broken.png" in capsys.readouterr().err


def test_decoded_pixels_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for colour in ("red", "blue", "green"):
        paint(tmp_path / "photos" / colour / "0.png", colour)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("clipjax.evaluation.models.encoders.load_model", lambda *_, **__: ColourModel())
    command = ["eval", "zeroshot", "-m", "my/model", "--data", tmp_path / "photos", "--prompts", "single"]
    command += ["--results", tmp_path / "results"]
    tables = []
    for options in ([], ["--pixel-store", "cache"], ["--pixel-store", "cache"]):
        capsys.readouterr()
        assert invoke(*command, *options) == (0, "")
        printed = capsys.readouterr()
        tables.append(printed.out)
        assert "embedded 3 images in " in printed.err
        assert "the devices waited for pixels " in printed.err
    assert tables[0] == tables[1] == tables[2]
    # The fastest way to decode, where that is left to a measurement.
    monkeypatch.setattr("clipjax.embeddings.images.choose", lambda *_, **__: Decoders(0, 2))
    assert invoke(*command, "--workers", "auto") == (0, "")
    assert "% of it (decoded by 2 threads: the fastest here)" in capsys.readouterr().err
    # The same of the batch, which an own model does not measure.
    assert invoke(*command, "--batch-size", "auto") == (0, "")
    assert "images per device in a step" not in capsys.readouterr().err
    code, message = invoke(*command, "--batch-size", "many")
    assert (code, "--batch-size: a number of images, or auto, not 'many'" in message) == (2, True)
    # Another recipe for large JPEGs.
    assert invoke(*command, "--decode", "jpeg_scaled", "--json") == (0, "")
    assert "decoded smaller" in json.loads(capsys.readouterr().out)[0]["convention"]["decode"]
    code, message = invoke(*command, "--decode", "jpeg")
    assert (code, "unknown way to decode 'jpeg'" in message) == (2, True)
    assert invoke("store", "list", "--pixels") == (0, "")
    listed = capsys.readouterr().out
    assert "pixels" in listed
    assert "8 px, short side 8, bicubic, RGB first" in listed
    assert invoke("store", "gc", "--pixels", "0B") == (0, "")
    assert "removed 1 entries" in capsys.readouterr().out
    code, says = invoke(*command, "--pixel-store", tmp_path / "p", "--pixel-budget", "500B")
    assert (code, "--pixel-budget" in says, (tmp_path / "p").exists()) == (2, True, False), says
    code, says = invoke(*command, "--pixel-budget", "1GB")
    assert (code, "has no effect without --pixel-store" in says) == (2, True)
    code, says = invoke("eval", "imagenet_x", "--predictions", "x.csv", "--pixel-store", tmp_path / "p")
    assert (code, says) == (
        2,
        "clipjax: --predictions and --pixel-store do not go together: leave one of them out",
    )
    code, says = invoke("store", "list", "--pixels", "--store", tmp_path)
    assert (code, "--pixels and --store do not go together" in says) == (2, True)


def test_the_default_store_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    assert invoke("store", "list")[0] == 0


def test_version_0_1_0_called_the_list_ls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        invoke("store", "ls", "--store", tmp_path) == invoke("store", "list", "--store", tmp_path) == (0, "")
    )
    capsys.readouterr()
    invoke("store", "--help")
    commands = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│ ")]
    assert {"list", "gc", "export"} <= {*commands}
    assert "ls" not in commands


@pytest.mark.parametrize(
    ("number", "code", "says"), [("SIGINT", 130, "stopped"), ("SIGTERM", 75, "interrupted")]
)
def test_a_signal_is_answered_in_words(number: str, code: int, says: str) -> None:
    """The signal comes while a command runs, inside typer."""
    program = (
        "import os, signal; from clipjax import cli\n"
        f"cli.app.command('wait')(lambda: os.kill(os.getpid(), signal.{number}))\n"
        "import sys; sys.argv = ['clipjax', 'wait']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"clipjax: {says}: what is finished is kept; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("reference_here")
@pytest.mark.parametrize("compared", mostly_long([True, False], keep=[False]))
def test_verify_takes_the_cards_library_and_writes_where_it_is_told(
    lite0: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    compared: bool,
) -> None:
    """What a comparison finds: verification/test_verify.py."""
    out, reports = tmp_path / "new" / "folder" / "report.json", []

    def verified(model: Any, against: str | None, **options: Any) -> VerificationReport:
        stages, reference = (StageCheck("logits", 0.0, 1e-5),), {"library": "timm", "version": "1.0"}
        found = VerificationReport(model.card.id, against or "timm", stages, reference)
        reports.append(verify(model, against, **options) if compared and not reports else found)
        return reports[-1]

    monkeypatch.setattr("clipjax.verification.verify.verify", verified)
    assert invoke("verify", lite0, "-o", out, "--json") == (0, "")
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(out.read_text())
    assert json.loads(printed)["against"] == "timm"
    (tmp_path / "file").write_text("")
    code, says = invoke("verify", lite0, "-o", tmp_path / "file" / "report.json")
    assert (code, "report.json cannot be written" in says) == (1, True)
    lines = capsys.readouterr().out.splitlines()
    assert len(reports) == 2
    assert len(lines) == 3, "what was found is not lost with the file"
    assert lines[0].startswith("random-lite0 against timm ")
    assert lines[2] == "verified"


def test_a_classifier_is_not_verified_against_open_clip(lite0: Path) -> None:
    code, says = invoke("verify", lite0, "--against", "open_clip")
    assert (code, "is a classifier, which open_clip does not have" in says) == (2, True)
