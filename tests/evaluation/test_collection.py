"""Many runs below one folder of data sets: what is planned, what is shared, and what a failure costs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest
from _colours import COLOURS, ColourModel, paint
from _records import split
from typer.testing import CliRunner

import clipjax
from clipjax.cli import app
from clipjax.commands.runs.summary import show
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.errors import DataError, UsageError
from clipjax.evaluation import ahead
from clipjax.evaluation.data_folder import cards_below, in_one_line
from clipjax.evaluation.plans.collection import job_of, plan
from clipjax.evaluation.plans.execute import ItemOutcome, execute
from clipjax.evaluation.plans.item import TaskOnData, items_of
from clipjax.evaluation.rows import Result
from clipjax.results.runs.failed_runs import FailedRuns
from clipjax.results.store import ResultStore
from clipjax.tasks.collections import collections
from clipjax.tasks.task import all_tasks, find_task
from clipjax.tasks.task_names import TASKS

COLOUR_CARD = """
name = "colours"
title = "Colours"
reader = "folder"
label_space = "colours.csv"
prompts = "single"
id = "colours"
tasks = ["zeroshot", "calibration"]
"""
SHIFT_CARD = """
name = "shifted"
title = "Colours, shifted"
reader = "folder"
label_space = "few.csv"
head_space = "colours.csv"
place = "shifts/few"
id = "colours"
tasks = ["zeroshot", "calibration"]
"""
OOD_CARD = """
name = "odd"
title = "No colours"
reader = "flat"
id = "colours"
tasks = ["ood"]
"""


def write_space(path: Path, names: list[str]) -> None:
    path.write_text("id,name\n" + "".join(f"{name},{name}\n" for name in names))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three data sets of the user's own, described by cards and nothing else."""
    root = tmp_path / "data"
    for i, colour in enumerate(COLOURS):
        for n in range(3):
            paint(root / "colours" / colour / f"{n}.png", "red" if (i, n) == (0, 2) else colour)
    for name, colour in (("teal/0", "teal"), ("teal/1", "blue"), ("red/0", "red"), ("red/1", "red")):
        paint(root / "shifts" / "few" / f"{name}.png", colour)
    for n, colour in enumerate(("pink", "white", "black")):
        paint(root / "odd" / "deep" / f"{n}.png", colour)
    write_space(root / "colours.csv", list(COLOURS))
    write_space(root / "few.csv", ["teal", "red"])
    (root / "colours.toml").write_text(COLOUR_CARD)
    (root / "shifted.toml").write_text(SHIFT_CARD)
    (root / "odd.toml").write_text(OOD_CARD)
    return root


def jobs_of(name: str, data: Path, *prompts: str) -> list[TaskOnData]:
    return plan(name, data, prompts).jobs


def run(model: ColourModel, jobs: list[TaskOnData], tmp_path: Path, **settings) -> list[ItemOutcome]:
    settings = {"store": tmp_path / "store", "progress": False, "resamples": 20} | settings
    request, compute, settings = split(**settings)
    return list(execute(items_of(model, jobs, request), compute, **settings))


def result_of(done: ItemOutcome) -> Result:
    assert done.result is not None, done.error
    return done.result


def test_a_task_runs_on_every_data_set_that_is_made_for_it(data):
    planned = plan("zeroshot", data)
    assert [str(job) for job in planned.jobs] == ["zeroshot on colours", "zeroshot on shifted"]
    assert planned.jobs[1].data.root == data / "shifts" / "few"
    [line] = [line for line in planned.missing if line.startswith("imagenet_v2 ")]
    assert line.startswith("imagenet_v2 (zeroshot): ")
    assert re.search(r"imagenetv2-\S+ does not exist, nor do 2 more$", line)


def test_a_card_without_an_id_names_the_set_that_is_missing(data):
    """Not only itself: its own images are there."""
    (data / "odd.toml").write_text(OOD_CARD.replace('id = "colours"\n', ""))
    [line] = [line for line in plan("all", data).missing if line.startswith("odd ")]
    gone = data / "imagenet" / "val"
    why = "the images of imagenet_val, which odd is compared with"
    assert line == f"odd (ood): {gone} does not exist: {why}, as its card has no `id`"
    (data / "odd.toml").write_text(OOD_CARD.replace('id = "colours"\n', 'id = "imagenet_val"\n'))
    [line] = [line for line in plan("all", data).missing if line.startswith("odd ")]
    assert line == f"odd (ood): {gone} does not exist: {why}"


def test_prompts_are_read_before_anything_runs(data, tmp_path):
    (tmp_path / "mine.txt").write_text("the colour {}\n")
    names = [str(job) for job in jobs_of("zeroshot", data, "openai_7", str(tmp_path / "mine.txt"))]
    assert names[:2] == ["zeroshot on colours, prompts openai_7", "zeroshot on colours, prompts mine"]
    with pytest.raises(UsageError, match="unknown prompt set 'openai_8'"):
        plan("zeroshot", data, ["openai_7", "openai_8"])


def test_the_collections_name_known_prompts_and_tasks(data):
    jobs = [job for job in jobs_of("prompts", data) if str(job).startswith("zeroshot on colours")]
    assert [job.prompts and job.prompts.name for job in jobs] == list(collections()["prompts"].prompts)
    assert TASKS.names() == tuple(sorted(all_tasks()))
    for collection in collections().values():
        assert set(collection.tasks) <= set(all_tasks())


def test_prompts_leave_corrupted_copies_out(data):
    card = 'name = "fog"\ntitle = "Fog"\nreader = "folder"\nlabel_space = "colours.csv"\nplace = "colours"\n'
    card += 'tasks = ["zeroshot"]\n[variants]\ncorruption = ["fog_3d"]\nseverity = [1, 2]\n'
    (data / "fog.toml").write_text(card)
    assert "zeroshot on fog:fog_3d:2" in map(str, jobs_of("shifts", data))
    assert not any("fog" in str(job) for job in jobs_of("prompts", data))


def test_nothing_there_and_no_such_name(data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no data set for 'zeroshot': .*imagenet_a \(zeroshot\)"):
        plan("zeroshot", tmp_path / "empty")
    (tmp_path / "empty" / "pets.toml").write_text('name = "pets"\ntitle = "Pets"\nreader = "folder"\n')
    with pytest.raises(DataError, match=r"empty/pets\.toml has no `tasks`: add `tasks = .\"zeroshot\".` to"):
        plan("zeroshot", tmp_path / "empty")
    (tmp_path / "empty" / "pets.toml").unlink()
    with pytest.raises(DataError, match=r"(.* does not exist[^;]*; ){3}and \d+ more$"):
        plan("shifts", tmp_path / "empty")
    with pytest.raises(UsageError, match="unknown task 'shift'; did you mean shifts"):
        plan("shift", data)
    with pytest.raises(DataError, match="is not a folder"):
        plan("shifts", tmp_path / "gone")


def test_a_users_card_replaces_the_shipped_one(data):
    (data / "r.toml").write_text(SHIFT_CARD.replace('"shifted"', '"imagenet_r"'))
    [found] = [located for located in cards_below(data) if located.card.name == "imagenet_r"]
    assert found.root == data / "shifts" / "few"
    (data / "notes.toml").write_text("colour = 1\n")
    with pytest.raises(DataError, match=r"notes\.toml is not a data card .*: move it, such as a suite, else"):
        cards_below(data)


def test_the_second_prompt_set_runs_no_forward_pass(data, tmp_path):
    model = ColourModel(fingerprint="colours")
    first = run(model, jobs_of("zeroshot", data, "single"), tmp_path)
    calls = model.calls
    assert calls > 0
    done = run(model, jobs_of("zeroshot", data, "openai_7", "openai_80"), tmp_path)
    assert model.calls == calls
    assert len(done) == 2 * len(first) == 4
    assert all(result_of(each).stats.forward_passes == 0 for each in done)
    assert len({row["recipe_hash"] for each in done for row in result_of(each).rows}) == 4
    assert [result_of(each).rows[0]["convention"]["prompts"] for each in done[:2]] == [
        "openai_7",
        "openai_80",
    ]
    values = {each.item.job.data.card.name: result_of(each).value("top1") for each in done}
    assert values == {"colours": 23 / 24, "shifted": 1.0}  # blue is nearer to teal than to red


def test_prompt_sets_on_accuracy_factors_ood_and_calibration(data, tmp_path):
    """The collection `prompts`, with sentences from a file: each image is encoded once."""
    names = [f"{colour}/{n}.png" for colour in COLOURS for n in range(3)]
    for i, name in enumerate(names):  # annotations go by file names, which must differ
        paint(data / "factors" / Path(name).parent / f"f{i}.png", Path(name).parent.name)
    write_factors(data / "marks", [f"f{i}.png" for i in range(len(names))], per_class=3)
    card = COLOUR_CARD.replace('name = "colours"', 'name = "factors"')
    card = card.replace('"zeroshot", "calibration"', '"imagenet_x"')
    (data / "factors.toml").write_text(card + 'annotations = "marks"\n')
    sentences = {colour: [f" {colour} it is.", f"So {colour}."] for colour in COLOURS}
    (tmp_path / "cupl.json").write_text(json.dumps(sentences))
    model = ColourModel(fingerprint="colours")
    first = run(model, jobs_of("prompts", data, "single"), tmp_path)
    calls = model.calls
    done = run(
        model, jobs_of("prompts", data, str(tmp_path / "cupl.json"), f"mcm_5+{tmp_path}/cupl.json"), tmp_path
    )
    assert model.calls == calls > 0
    assert {each.item.job.task for each in done} == set(collections()["prompts"].tasks)
    assert len(done) == 2 * len(first) == 2 * 6
    prompts = {result_of(each).rows[0]["convention"]["prompts"] for each in done}
    assert prompts == {"cupl", "mcm_5+cupl"}


def test_prompts_of_one_meaning_run_once(data, tmp_path):
    (tmp_path / "copy.txt").write_text("a photo of a {}.\n")
    jobs = jobs_of("zeroshot", data, "single", str(tmp_path / "copy.txt"))
    assert len(jobs) == 4
    assert len(run(ColourModel(), jobs, tmp_path)) == 2


def test_a_classifier_runs_each_data_set_once(data, tmp_path, monkeypatch):
    given = []

    def never(ready, compute, results):
        job = ready.item.job
        given.append((job.task, job.data.card.name, job.prompts))
        raise DataError("not today")

    monkeypatch.setattr("clipjax.evaluation.plans.execute.measured", never)
    space = LabelSpace("colours", tuple(COLOURS), tuple(COLOURS))
    run(
        ColourModel(kind="classifier", label_space=space),
        jobs_of("zeroshot", data, "single", "openai_7"),
        tmp_path,
    )
    assert given == [("zeroshot", "colours", None), ("zeroshot", "shifted", None)]


def test_a_failing_data_set_costs_no_other(data, tmp_path):
    (data / "colours" / "red" / "0.png").write_bytes(b"no image")
    seen = []

    def announce(number, of, item):
        seen.append(f"{number}/{of} {item.job}")

    done = run(ColourModel(), jobs_of("zeroshot", data), tmp_path, announce=announce)
    assert seen == ["1/2 zeroshot on colours", "2/2 zeroshot on shifted"]
    assert "red/0.png" in str(done[0].error)
    assert done[0].result is None
    assert result_of(done[1]).value("top1") == 1.0


def test_each_data_set_is_read_once(data, tmp_path, monkeypatch):
    from clipjax.evaluation import data_folder

    loads = []

    def load_dataset(card, root):
        loads.append(card.name)
        return own_load(card, root)

    own_load = data_folder.load_dataset
    monkeypatch.setattr(data_folder, "load_dataset", load_dataset)
    run(ColourModel(), jobs_of("zeroshot", data, "single", "openai_7", "mcm_5"), tmp_path)
    assert loads == ["colours", "shifted"]


def embedded_together(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the data sets of each stream, from now on."""
    found, embed_many = [], ahead.embed_many

    def noted(model, manifests, *how, **settings):
        found.append([manifest.name for manifest in manifests])
        return embed_many(model, manifests, *how, **settings)

    monkeypatch.setattr(ahead, "embed_many", noted)
    return found


def test_small_data_sets_are_embedded_before_the_runs_in_one_stream(data, tmp_path, monkeypatch):
    cut = COLOUR_CARD.replace('name = "colours"', 'name = "cut"') + 'place = "colours"\n'
    for name in ("cut", "cut_too"):  # another pixel recipe: a stream of their own
        text = cut.replace('"cut"', f'"{name}"') + "[pixels]\npre_crop = 1\n"
        (data / f"{name}.toml").write_text(text)
    streams = embedded_together(monkeypatch)
    jobs = [*jobs_of("ood", data), *jobs_of("zeroshot", data)]
    expected = run(ColourModel(), jobs, tmp_path)  # no fingerprint, no store
    assert streams == []
    done = run(ColourModel(fingerprint="colours"), jobs, tmp_path)
    assert [sorted(names) for names in streams] == [["colours", "odd", "shifted"], ["cut", "cut_too"]]
    # What was embedded is in the statistics of the first run that reads it, and nothing twice.
    assert [str(each.item.job) for each in done] == [f"{job}" for job in jobs]
    assert [result_of(each).stats.images for each in done] == [27, 0, 24, 0, 4]
    for a, b in zip(done, expected, strict=True):
        values = [[(row["metric"], row["value"]) for row in result_of(each).rows] for each in (a, b)]
        assert values[0] == values[1]
    again = run(ColourModel(fingerprint="colours"), jobs, tmp_path)
    assert [result_of(each).stats.images for each in again] == [0] * len(jobs)


def test_what_is_not_embedded_ahead(data, tmp_path, monkeypatch):
    """Large data sets, one alone, and what its own run will refuse."""
    streams = embedded_together(monkeypatch)
    [odd] = jobs_of("ood", data)
    model = ColourModel(fingerprint="colours")
    (data / "shifts" / "few" / "red" / "0.png").write_bytes(b"no image")
    done = run(model, jobs_of("zeroshot", data), tmp_path)
    assert streams == [["colours", "shifted"]]
    assert "few/red/0.png" in str(done[1].error)
    assert result_of(done[0]).stats.images == 24
    [skipped] = run(model, jobs_of("zeroshot", data)[1:], tmp_path, on_error="skip")
    assert (result_of(skipped).stats.images, result_of(skipped).stats.skipped) == (0, ("red/0.png",))
    monkeypatch.setattr(ahead, "SMALL", 24 / 64 / jax.device_count())
    run(model, [odd], tmp_path, store=tmp_path / "another")  # colours has 24 images: not fewer
    run(model, [odd], tmp_path, annotations="nowhere", labels="red,green")
    assert streams == [["colours", "shifted"]]


def test_the_jobs_have_the_prompts(data):
    """A request's own would be asked of tasks that take none."""
    request, _, _ = split(prompts="openai_7", resamples=20)
    for item in items_of(ColourModel(), jobs_of("all", data, "openai_7"), request):
        assert item.request == dataclasses.replace(request, prompts=None)
        assert (item.job.prompts is None) == ("head" not in find_task(item.job.task).needs)


def test_a_single_run_embeds_its_own_data_sets(data, tmp_path, monkeypatch):
    """Its row counts the programs that it compiled; and an error of the run is the outcome's."""
    streams, where = embedded_together(monkeypatch), {"id_root": data / "colours", "progress": False}
    where |= {"dataset": data / "odd.toml", "root": data / "odd", "store": tmp_path / "store"}
    request, compute, _ = split(**where, resamples=20)
    model, job = ColourModel(fingerprint="colours"), job_of("ood", request, compute, None)
    [done] = execute(items_of(model, [job], request), compute)
    assert (streams, result_of(done).stats.images) == ([], 27)
    refused = dataclasses.replace(request, annotations="marks")
    [failed] = execute(items_of(model, [job], refused), compute)
    assert "takes no annotations" in str(failed.error)


def test_ood_needs_the_in_distribution_images_too(data, tmp_path):
    [job] = jobs_of("ood", data)
    assert job.id
    assert (job.id.card.name, job.id.root) == ("colours", data / "colours")
    model = ColourModel(fingerprint="colours")
    run(model, jobs_of("zeroshot", data), tmp_path)
    [done] = run(model, [job], tmp_path)
    assert result_of(done).rows[0]["convention"]["id"] == "colours"
    (data / "colours").rename(data / "elsewhere")
    with pytest.raises(DataError, match=r"odd \(ood\): \S*colours does not exist"):
        plan("ood", data)


def test_a_card_in_any_folder_finds_the_card_of_its_id_set(data):
    result = clipjax.evaluate(
        ColourModel(),
        "ood",
        dataset=data / "odd.toml",
        root=data / "odd",
        id_root=data / "colours",
        resamples=20,
        progress=False,
    )
    assert result.rows[0]["convention"]["id"] == "colours"
    with pytest.raises(UsageError, match="say where 'colours' is"):
        clipjax.evaluate(ColourModel(), "ood", dataset=data / "odd.toml", root=data / "odd")


def test_images_are_not_told_from_themselves(data, capsys):
    settings: dict[str, Any] = {"dataset": data / "odd.toml", "id_root": data / "colours", "progress": False}
    for limit in (None, 5):
        with pytest.raises(DataError, match="odd and the in-distribution set colours are the same images"):
            clipjax.evaluate(ColourModel(), "ood", root=data / "colours", limit=limit, **settings)
    (data / "colours" / "red" / "0.png").rename(data / "odd" / "0.png")
    result = clipjax.evaluate(ColourModel(), "ood", root=data / "odd", resamples=2, **settings)
    metrics = {row["metric"] for row in result.rows if row["slice"] is None}
    usual = metrics & {"auroc", "fpr95_mos", "class_mean_auroc"}
    assert len(usual) > 1
    for every, shown in ((False, usual), (True, metrics)):
        show([result], False, all_metrics=every)
        printed = capsys.readouterr()
        assert {name for name in metrics if f" {name} " in printed.out} == shown
        assert ("more numbers: --all-metrics" in printed.err) == (not every)


def test_id_options_of_a_task_without_an_id_set(data):
    where: dict[str, Any] = {"dataset": data / "colours.toml", "root": data / "colours", "progress": False}
    for option in ("id_root", "id_dataset"):
        given: dict[str, Any] = {**where, option: "nosuch"}
        with pytest.raises(UsageError, match=r"'zeroshot' compares with no .* --id-data\) out"):
            clipjax.evaluate(ColourModel(), "zeroshot", **given)


def test_calibration_of_a_shift_uses_the_cards_own_id_set(data, tmp_path):
    done = run(ColourModel(), jobs_of("calibration", data), tmp_path)
    assert [str(each.item.job) for each in done] == ["calibration on colours", "calibration on shifted"]
    assert {result_of(each).rows[0]["convention"]["id"] for each in done} == {"colours"}


def test_two_cards_of_the_same_images_are_two_results(data, tmp_path):
    """Their names seed the bootstraps, and published numbers belong to one of them."""
    (data / "again.toml").write_text(
        COLOUR_CARD.replace('name = "colours"', 'name = "again"') + 'place = "colours"\n'
    )
    results = tmp_path / "results"
    done = run(ColourModel(), jobs_of("zeroshot", data), tmp_path, results=results)
    hashes = [result_of(each).rows[0]["recipe_hash"] for each in done]
    assert len(set(hashes)) == len(hashes) == 3
    assert {row["dataset"] for row in ResultStore(results).rows()} == {"again", "colours", "shifted"}


def test_ood_is_judged_by_the_id_sets_words_and_says_what_it_sampled(data, tmp_path):
    card = re.sub('prompts = "[^"]*"', 'prompts = "mcm_5"', COLOUR_CARD)
    (data / "colours.toml").write_text(card)
    [job] = jobs_of("ood", data)
    [whole] = run(ColourModel(), [job], tmp_path)
    [part] = run(ColourModel(), [job], tmp_path, limit=10)
    said = [result_of(each).rows[0]["convention"] for each in (whole, part)]
    assert said[0]["prompts"] == "mcm_5"
    assert "id_sample" not in said[0]
    assert said[1]["id_sample"] == {"limit": 10, "seed": 0, "of": 24}
    assert result_of(part).rows[0]["sample"] is None  # the three OOD images are all there
    with pytest.raises(UsageError, match=r"over the ID classes: leave labels \(--labels\) out"):
        clipjax.evaluate(
            ColourModel(),
            "ood",
            dataset=job.data.card,
            root=job.data.root,
            id_root=data / "colours",
            labels="imagenet",
        )


def write_factors(folder: Path, names: list[str], per_class: int = 1) -> None:
    folder.mkdir()
    for kind in ("top", "multi"):
        lines = [
            {"file_name": name, "class": i // per_class, "pose": int(i < 3), "background": int(i >= 3)}
            for i, name in enumerate(names)
        ]
        text = "\n".join(map(json.dumps, lines))
        (folder / f"colours_{kind}_factor.jsonl").write_text(text)


def test_a_card_names_its_own_annotations(data, tmp_path):
    for i, colour in enumerate(COLOURS):
        paint(data / "factors" / colour / f"f{i}.png", colour)
    write_factors(data / "marks", [f"f{i}.png" for i in range(len(COLOURS))])
    card = COLOUR_CARD.replace('"colours"', '"factors"').replace('"zeroshot", "calibration"', '"imagenet_x"')
    (data / "factors.toml").write_text(card + 'annotations = "marks"\n')
    jobs = jobs_of("imagenet_x", data)
    [done] = run(ColourModel(), jobs, tmp_path)
    values = {(row["metric"], row["slice"]): row["value"] for row in result_of(done).rows}
    assert values["accuracy", "top/filtered/factor:pose"] == 1.0
    # Given for all runs, they go to the tasks that read some, where the card names none.
    (data / "factors.toml").write_text(card)
    jobs = [*jobs_of("imagenet_x", data), *jobs_of("zeroshot", data)]
    again = run(ColourModel(), jobs, tmp_path, annotations=data / "marks")
    assert [result_of(each).rows[0]["recipe"]["annotations"] is not None for each in again] == [
        True,
        False,
        False,
    ]
    digests = {row["recipe"]["annotations"] for each in (done, again[0]) for row in result_of(each).rows}
    assert len(digests) == 1


def test_captions_take_a_template_only_when_asked_for(data, tmp_path):
    rows = [{"path": f"{c}.png", "captions": [f"{c} all over", f"so {c}"]} for c in ("red", "blue", "teal")]
    for row in rows:
        paint(data / "told" / row["path"], row["path"].removesuffix(".png"))
    (data / "told" / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    card = 'name = "told"\ntitle = "Told"\nreader = "manifest_file"\ntasks = ["retrieval"]\n'
    (data / "told.toml").write_text(card + '[options]\nfile = "captions.jsonl"\n')
    assert [str(job) for job in jobs_of("retrieval", data)] == ["retrieval on told"]
    assert [str(job) for job in jobs_of("retrieval", data, "single")] == ["retrieval on told, prompts single"]
    everything = [str(job) for job in jobs_of("all", data, "single")]
    assert "retrieval on told" in everything
    assert "zeroshot on colours, prompts single" in everything
    [done] = run(ColourModel(), jobs_of("retrieval", data), tmp_path)
    assert result_of(done).rows[0]["value"] == 1.0


def test_a_users_own_cue_conflict(data, tmp_path):
    classes = load_labels("cue_conflict").ids
    for i, name in enumerate(classes):
        other = classes[i - 1]
        paint(data / "conflict" / name / f"{name}1-{other}2.png", "red")
    card = """
name = "conflict"
title = "My conflict"
reader = "folder"
label_space = "cue_conflict"
tasks = ["shape_bias"]
[options.columns]
texture = '-([a-z]+)\\d*\\.[^-/]*$'
"""
    (data / "conflict.toml").write_text(card)
    sentences = {name: [f"a {colour}"] for name, colour in zip(classes, [*COLOURS, *COLOURS])}
    (tmp_path / "words.json").write_text(json.dumps(sentences))
    [done] = run(ColourModel(), jobs_of("shape_bias", data, str(tmp_path / "words.json")), tmp_path)
    assert result_of(done).rows


def test_a_bug_leaves_a_record_and_its_traceback(data, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("clipjax.evaluation.plans.execute.measured", broken)
    with pytest.raises(KeyError, match="a bug"):
        run(ColourModel(), jobs_of("zeroshot", data)[:1], tmp_path, results=tmp_path / "results")
    [record] = FailedRuns(tmp_path / "results").all().values()
    assert record.reason == "KeyError: 'a bug'"
    [text] = (tmp_path / "results" / ".failed").glob("*.txt")
    assert "in broken" in text.read_text()


def test_the_command_reports_progress_failures_and_what_is_missing(data, tmp_path, monkeypatch):
    model = ColourModel(fingerprint="colours")
    monkeypatch.setattr("clipjax.evaluation.models.encoders.load_model", lambda *_args, **_kwargs: model)
    (data / "shifts" / "few" / "red" / "0.png").write_bytes(b"no image")
    command = ["eval", "shifts", "-m", "a/x", "--data-root", str(data), "--store", str(tmp_path / "store")]
    command += ["--results", str(tmp_path / "results"), "--prompts", "single", "--prompts", "mcm_5"]
    command += ["--track", "tensorboard"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, DataError)
    assert re.match(
        r"2 of 4 runs failed; the other 2 are complete: zeroshot on shifted, ", str(done.exception)
    )
    [left] = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert re.match(r"left out: \d+ data sets that are not there, among them .*: .* does not exist", left)
    assert in_one_line(["a: b", "c: d"], None) == ["2 data sets that are not there, among them a: b"]
    assert "zeroshot of colours on " in done.stderr
    assert "a zero-shot head from single (1 template)" in done.stderr
    assert "[4/4] zeroshot on shifted, prompts mcm_5" in done.stderr
    assert "failed: " in done.stderr
    [title] = [line for line in done.stdout.splitlines() if line.startswith("model")]
    assert "prompts" in title
    assert len(ResultStore(tmp_path / "results").run_ids()) == 2
    assert len(list((tmp_path / "results" / ".tracked").glob("colours/*/events.*"))) == 2
    records = FailedRuns(tmp_path / "results").all()
    assert sorted(each.run for each in records.values()) == [
        "colours: zeroshot on shifted, prompts mcm_5",
        "colours: zeroshot on shifted, prompts single",
    ]
    done = CliRunner().invoke(app, [*command, "--on-error", "skip", "--json"])
    assert done.exit_code == 0
    assert FailedRuns(tmp_path / "results").all() == {}
    assert {row["convention"]["prompts"] for row in json.loads(done.stdout)} == {"single", "mcm_5"}
    assert done.stderr.count("the same recipe has rows already, of the run ") == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data-root", "x", "--data", "y"], "give one of --data, --data-root, --predictions: not"),
        (["--data-root", "x", "--dataset", "imagenet_val"], "--data-root and --dataset do not go together"),
        (["--data-root", "x", "--id-data", "y"], "--data-root and --id-data do not go together"),
        (["--predictions", "x.csv", "--decode", "full"], "--predictions and --decode do not go together"),
        (["--predictions", "x.csv", "--limit", "3"], "--predictions and --limit do not go together"),
        (["--predictions", "x.csv", "--prompts", "single"], "--predictions and --prompts do not go together"),
        (["--data", "x", "--prompts", "single", "--prompts", "mcm_5"], "several --prompts need --data-root"),
        (["--data", ".", "--workers", "many"], "--workers: a number of processes, or auto, not 'many'"),
        ([], "give one of --data, --data-root, --predictions"),
    ],
)
def test_options_that_do_not_go_together(options, says):
    done = CliRunner().invoke(app, ["eval", "zeroshot", "-m", "vit_b_32-openai", *options])
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
