"""Config folders of the user's: what they add is found like ours, what is wrong in them is one sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.spec import load_spec, spec_names
from clipjax.analysis.rows.groups import groups, schemes
from clipjax.analysis.rows.pivot import better_end
from clipjax.checkpoints.identity.registry import channel_statistics, model_card, subjects
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.checkpoints.load import load_model
from clipjax.cli import app
from clipjax.commands.shared.config_readers import READERS, read_config
from clipjax.config import ConfigFolder, ConfigTable, added_folders, config_dir, config_file
from clipjax.data.cards import dataset_names, read_card
from clipjax.data.labels import load_labels, load_projection, load_prompts
from clipjax.doctor.configs import check_configs
from clipjax.doctor.machine import Machine
from clipjax.errors import ClipjaxError, DataError
from clipjax.evaluation.rows import from_configs
from clipjax.finetune.recipe import load_recipe, recipe_names
from clipjax.finetune.suites import load_suite as load_finetune_suite
from clipjax.models.arch import arch_names, load_arch
from clipjax.storage.digests import sha256_file
from clipjax.storage.reading import read_toml
from clipjax.sweep.plan import make_plan
from clipjax.sweep.suite import load_suite, select
from clipjax.tasks.collections import collection
from clipjax.verification.coverage import coverage

MODELS = "id,group,arch,library,mean_std,interpolation,resize_mode,resize_size,crop_size,tokenizer\n"
ROW = "mine,clip,small,open_clip,grey,bicubic,shortest,224,224,openai_bpe\n"
CARD = 'name = "birds"\ntitle = "Birds"\nreader = "folder"\nlabel_space = "birds"\ntasks = ["zeroshot"]\n'
CLAIM = """
[groups]
a = { group = "clip" }
b = { group = "standard" }
[columns]
birds = "zeroshot birds top1"
[[claims]]
key = "birds_fly"
section = "own"
statement = "CLIPs know birds."
parts = [{ statistic = "group_difference", y = "birds", group = "a", against = "b", side = "above" }]
"""
GROUP = """
[[mine]]
key = "small"
title = "Small"
colour = "#112233"
marker = "o"
where = { arch_kind = "vit" }
"""
FILES = {
    "models.csv": MODELS + ROW,
    "normalization.toml": "[grey]\nmean = [0.5, 0.5, 0.5]\nstd = [1, 1, 1]\n",
    "datasets/birds.toml": CARD,
    "labels/birds.csv": "id,name\nn01440764,tench\nn01443537,goldfish\n",
    "labels/birds-to-imagenet.toml": "",
    "prompts/chirp.txt": "a {} that sings\n",
    "prompts/tweets.json": '{"tench": ["a tench tweets"]}',
    "groups.toml": GROUP,
    "metrics.toml": 'lower = ["screech"]\n',
    "collections.toml": '[aviary]\ntasks = ["zeroshot", "calibration"]\n',
    "claims.toml": CLAIM,
    "suites/flock.toml": 'title = "B"\nmodels = ["mine"]\n[[runs]]\ntask = "zeroshot"\ndatasets = "birds"\n',
    "finetune/fledge.toml": 'title = "F"\nmethod = "cross_entropy"\nbatch_size = 4\nsteps = 1\n',
    "finetune_runs/nest.toml": 'title = "N"\n[[runs]]\nrecipe = "fledge"\nmodel = "mine"\n',
    "README.md": "Birds.\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each, in the user's folder."""
    root = tmp_path / "mine"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "archs").mkdir()
    shutil.copy(config_dir() / "archs" / "ViT-B-32.toml", root / "archs" / "small.toml")
    (root / "figures").mkdir()
    shutil.copy(config_dir() / "figures" / "fig2.toml", root / "figures" / "birdsong.toml")
    monkeypatch.setenv("CLIPJAX_CONFIGS", str(root))
    return root


def test_everything_of_the_folder_is_found(folder: Path) -> None:
    card = model_card("mine")
    assert (card.arch.name, card.arch.vision) == ("small", load_arch("ViT-B-32").vision)
    assert (card.preprocess.mean, channel_statistics("openai")[0][0]) == ((0.5, 0.5, 0.5), 0.48145466)
    assert (card.facts_origin, card.facts["group"], card.facts["train_size_m"]) == ("stated", "clip", None)
    assert card.unknown["facts.train_size_m"] == f"{folder / 'models.csv'} does not state it"
    assert "small" in arch_names()
    assert select({"arch": "small"}) == ["mine"]
    assert "birds" in dataset_names()
    assert load_labels("birds").classes == ("tench", "goldfish")
    assert load_projection(load_labels("imagenet"), load_labels("birds")) is not None
    assert load_prompts("chirp+tweets").of_class("tench") == ("a tench that sings", "a tench tweets")
    assert [group.key for group in groups("mine")] == ["small"]
    assert {"paper", "mine"} <= set(schemes())
    assert (better_end("screech"), better_end("song")) == ("lower", "unknown")
    assert collection("aviary").tasks == ("zeroshot", "calibration")
    assert ledger().claim("birds_fly").statement == "CLIPs know birds."
    assert load_suite("suite:flock").models == ("mine",)
    assert load_recipe("fledge").batch_size == 4
    assert "fledge" in recipe_names()
    assert load_finetune_suite("nest").runs[0].model == "mine"
    assert "birdsong" in spec_names()
    assert load_spec("birdsong").title == load_spec("fig2").title


def test_what_is_ours_stays_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of parity count our rows alone; without the folder nothing of it is left."""
    ids, claims, digests = model_ids(), len(ledger().claims), [subject.digest for subject in subjects()]
    monkeypatch.delenv("CLIPJAX_CONFIGS")
    assert [*model_ids(), "mine"] == ids
    assert len(ledger().claims) == claims - 1
    assert [subject.digest for subject in subjects()] == digests
    assert "birds" not in dataset_names()
    assert config_file(ConfigFolder.PROMPTS, "chirp", ".txt") is None


def test_a_path_without_its_ending_is_not_a_file_of_every_folder(folder: Path) -> None:
    path = str(folder / "prompts" / "chirp")
    assert config_file(ConfigFolder.PROMPTS, "chirp", ".txt") == Path(f"{path}.txt")
    assert config_file(ConfigFolder.PROMPTS, path, ".txt") is None


BAD: list[tuple[str, str, str, Callable[[], object]]] = [
    ("archs/small.toml", "logit_bias = 3", "small.toml.*logit_bias", lambda: load_arch("small")),
    ("models.csv", MODELS.replace("group", "grupp") + ROW, "models.csv: unknown key 'grupp'", model_ids),
    ("models.csv", MODELS + ROW.replace("small", ""), "models.csv: arch of 'mine' is empty", model_ids),
    (
        "models.csv",
        MODELS + ROW.replace("mine", "a/../b c"),
        "models.csv: the id 'a/../b c' must be letters, digits",
        model_ids,
    ),
    ("models.csv", MODELS + ROW + ROW, "models.csv: two rows have the id 'mine'$", model_ids),
    (
        "models.csv",
        MODELS + ROW.replace("mine", "rn50-openai"),
        "id 'rn50-openai', the other in .*",
        model_ids,
    ),
    (
        "normalization.toml",
        "[grey]\nmeen = [0]\n",
        "normalization.toml: grey: .*meen",
        lambda: model_card("mine"),
    ),
    (
        "models.csv",
        MODELS + ROW.replace("224,224", "224,230"),
        "csv: crop_size of mine is 230, but small takes images of 224 pixels: write 224",
        coverage,
    ),
    (
        "models.csv",
        MODELS + ROW.replace("224,224", "224,230"),
        "crop_size of mine is 230, but",
        lambda: make_plan(load_suite("suite:flock"), None, absent=True),
    ),
    (
        "models.csv",
        MODELS + ROW,
        "csv: the row of mine does not state where .* --model FILE --card mine, or fill hub_repo or url",
        lambda: load_model("mine"),
    ),
    (
        "normalization.toml",
        "[openai]\n",
        "'openai' is in .*configs/normalization",
        lambda: model_card("mine"),
    ),
    (
        "datasets/birds.toml",
        CARD + "colour = 3\n",
        "birds.toml: unknown key 'colour'",
        lambda: read_card("birds"),
    ),
    (
        "datasets/birds.toml",
        CARD.replace('"birds"', '"owls"', 1),
        "birds.toml: 'name' is 'owls'",
        dataset_names,
    ),
    ("datasets/ninco.toml", CARD, "mine/datasets/ninco.toml has the name of .*configs/", dataset_names),
    (
        "labels/imagenet.csv",
        "id,name\n",
        "labels/imagenet.csv has the name of",
        lambda: load_labels("imagenet"),
    ),
    ("prompts/openai_80.txt", "{}\n", "openai_80.txt has the name of", lambda: load_prompts("openai_80")),
    ("archs/RN50.toml", "", "archs/RN50.toml has the name of .*: rename one", lambda: load_arch("RN101")),
    ("figures/fig1.toml", "", "figures/fig1.toml has the name of", spec_names),
    ("suites/fig1.toml", "", "suites/fig1.toml has the name of", lambda: load_suite("suite:fig1")),
    ("finetune/flyp_imagenet.toml", "", "has the name of", lambda: load_recipe("flyp_imagenet")),
    ("groups.toml", "[[paper]]\n", "groups.toml: 'paper' is in .*groups.toml, too", schemes),
    ("groups.toml", '[[mine]]\nkee = "x"\n', "mine/groups.toml: group mine 1.*kee", lambda: groups("mine")),
    (
        "collections.toml",
        "[aviary]\ntask = 3\n",
        "collections.toml: aviary: .*'task'",
        lambda: collection("x"),
    ),
    ("claims.toml", "level = 0.5\n" + CLAIM, "mine/claims.toml: unknown key 'level'", ledger),
    (
        "claims.toml",
        CLAIM.replace("statement =", "statment ="),
        "mine/claims.toml: claim birds_fly.*statment",
        ledger,
    ),
    (
        "claims.toml",
        CLAIM.replace("birds_fly", "KEY"),
        "key is that of a claim of another",
        ledger,
    ),
    ("claims.toml", CLAIM.replace("birds = ", "COLUMN = "), "columns.* is a name of configs", ledger),
    ("models.csv", MODELS, "models.csv has no row: write one for each model", model_ids),
    (
        "models.csv",
        MODELS + ROW.replace("small", "smal"),
        "csv: arch of mine is .smal., .*did you mean small",
        coverage,
    ),
    (
        "models.csv",
        MODELS + ROW.replace("bicubic", "cubic"),
        "csv: interpolation of mine is 'cubic'",
        coverage,
    ),
    (
        "models.csv",
        MODELS + ROW.replace("grey", "gray"),
        r"csv: mean_std of mine: .*has no \[gray\]; did you mean grey\? .*a config folder may have a normal",
        coverage,
    ),
    ("models.csv", MODELS + ROW.replace("i_bpe", "i_bp"), "csv: tokenizer of mine: .*did you mean", coverage),
    ("models.csv", MODELS + ROW.replace("openai_bpe", ""), "csv: tokenizer of mine is empty", coverage),
    (
        "models.csv",
        MODELS + ROW.replace("grey", "gray") + ROW.replace("mine", "two").replace("224,224", "224,x"),
        "mean_std of mine.*; also .*models.csv: crop_size of two is 'x'",
        coverage,
    ),
    ("groups.toml", "", "groups.toml holds nothing: write its tables, or remove it", schemes),
    ("datasets/owls.tml", CARD, "owls.tml is not read: files of datasets/ end in .toml, or", dataset_names),
    (
        "metrics.toml",
        'lower = ["top1"]\n',
        "mine/metrics.toml: 'top1' is there twice",
        lambda: better_end("x"),
    ),
    ("prompt/chirp.txt", "{}\n", "mine/prompt is not read: a config folder may hold archs/, ", arch_names),
    ("archs/big.tml", "", "archs/big.tml is not read: files of archs/ end in .toml", arch_names),
    ("metrics", "", "mine/metrics is not read: a config folder may hold", arch_names),
    ("protocols.toml", "", "protocols.toml is not read: a config folder may hold", arch_names),
]


def test_the_doctor_reads_every_file_of_the_folders_in_force(folder: Path) -> None:
    """Also those that only their own command would read."""
    assert set(READERS) == {*ConfigFolder, *ConfigTable}
    (wrong,) = check_configs(Machine(), read=read_config)
    assert wrong.says.startswith(f"{folder}/labels/birds-to-imagenet.toml: expected from, to, kind")
    (folder / "labels" / "birds-to-imagenet.toml").unlink()
    (fine,) = check_configs(Machine(), read=read_config)
    assert (fine.status, fine.says) == ("fine", f"{folder}: 15 files, all of them in order")
    for name, says in (
        ("labels/owls.toml", "called FROM-to-TO"),
        ("prompts/owls.txt", "holds no template"),
        ("figures/metrics.toml", "'kind' is missing"),  # named like a file of the folder itself
    ):
        (folder / name).write_text("\n")
        added_folders.cache_clear()
        (line,) = check_configs(Machine(), read=read_config)
        assert (line.status, says in line.says, str(folder / name) in line.says) == ("broken", True, True)
        (folder / name).unlink()


def test_nothing_is_printed_before_a_refusal(folder: Path) -> None:
    (folder / "collections.toml").write_text("[aviary]\ntask = 3\n")
    listed = CliRunner().invoke(app, ["tasks"])
    assert (listed.stdout, "collections.toml: aviary" in str(listed.exception)) == ("", True)


@pytest.mark.parametrize(("name", "text", "says", "look"), BAD, ids=[each[2][:40] for each in BAD])
def test_what_is_wrong_is_one_sentence(
    folder: Path, name: str, text: str, says: str, look: Callable[[], object]
) -> None:
    ours = read_toml(config_dir() / "claims.toml")
    text = text.replace("KEY", ours["claims"][0]["key"]).replace("COLUMN", min(ours["columns"]))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    with pytest.raises(ClipjaxError, match=says) as error:
        look()
    assert "\n" not in str(error.value)


def test_a_row_names_the_files_of_the_folder_that_gave_its_cards(folder: Path) -> None:
    paths = {name: read_card(name).path for name in ("birds", "ninco")}
    assert from_configs({"facts_of": "rn50-openai"}, {"ninco": paths["ninco"]}) == {}
    files = ("data set", "birds", "datasets/birds.toml"), ("model", "mine", "models.csv")
    assert from_configs({"facts_of": "mine"}, paths)["configs"] == [
        {"kind": kind, "name": name, "file": f"mine/{file}", "sha256": sha256_file(folder / file)}
        for kind, name, file in files
    ]


def test_files_that_cards_name_lie_beside_them(folder: Path) -> None:
    """Annotations, classes and labels; `{axis}` in a name is one of the axis's values."""
    fog = 'annotations = "{kind}.parquet"\nclasses = "kinds.txt"\n[variants]\nkind = ["fog"]\n'
    (folder / "datasets" / "birds.toml").write_text(CARD.replace("label_space", "prompts") + fog)
    for name in ("fog.parquet", "kinds.txt", "birds.csv"):
        (folder / "datasets" / name).write_text("one\n")
    assert "birds:fog" in dataset_names()
    (folder / "datasets" / "notes.txt").write_text("one\n")
    added_folders.cache_clear()
    with pytest.raises(DataError, match=r"notes\.txt is not read"):
        dataset_names()


def test_a_model_may_have_a_tokenizer_that_is_unknown(folder: Path) -> None:
    (folder / "models.csv").write_text(MODELS + ROW.replace("openai_bpe", "? none was kept"))
    card = model_card("mine")
    assert (card.tokenizer, card.unknown["tokenizer"]) == (None, "none was kept")


def test_of_two_folders_neither_hides_the_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    (other / "prompts").mkdir(parents=True)
    (other / "prompts" / "hum.txt").write_text("a {} that hums\n")
    monkeypatch.setenv("CLIPJAX_CONFIGS", os.pathsep.join([str(folder), str(other)]))
    assert added_folders() == (folder, other)
    assert load_prompts("hum+chirp").of_class("x") == ("a x that hums", "a x that sings")
    (other / "prompts" / "chirp.txt").write_text("a {} that chirps\n")
    with pytest.raises(DataError, match=r"other/prompts/chirp\.txt has the name of .*mine/prompts/chirp"):
        load_prompts("chirp")
    monkeypatch.setenv("CLIPJAX_CONFIGS", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"CLIPJAX_CONFIGS: .*gone does not exist: give a folder"):
        load_prompts("openai_80")


def test_the_option_is_the_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one command, and before the folders of the variable."""
    monkeypatch.delenv("CLIPJAX_CONFIGS")
    shown = CliRunner().invoke(app, ["--configs", str(folder), "models", "--group", "clip"])
    assert shown.exit_code == 0
    assert "mine" in shown.stdout
    assert "mine" not in CliRunner().invoke(app, ["models", "--group", "clip"]).stdout
    assert os.environ.get("CLIPJAX_CONFIGS", "") == ""
    for wrong, said in (
        (str(folder / "gone"), "gone does not exist: give a folder of yours with models"),
        ("", "--configs '' is not a folder: give a folder of yours"),
        (str(folder / "models.csv"), "models.csv is not a folder: give a folder of yours"),
    ):
        refused = CliRunner().invoke(app, ["--configs", wrong, "models"])
        assert said in str(refused.exception)
