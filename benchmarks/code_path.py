"""How much code a reader of one zero-shot run has before them, and how large the project's code is.

    python benchmarks/code_path.py                  # of this checkout
    python benchmarks/code_path.py --against main   # beside that commit
    python benchmarks/code_path.py --list           # also every function, the stack and the files counted

The run is `clipjax eval zeroshot` of 18 images in class folders by a tiny model in a folder of open_clip, in
a fresh process, on all threads. "run" is what is called once `clipjax.cli` is loaded, "process" all of it. A
function counts once, however often it is called. Bodies of modules and classes do not count, nor what
dataclasses generate. Code lines are those without blanks, comments and docstrings.
"""

from __future__ import annotations

import json as json_format
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import code_size, common, stored_runs

HERE = Path(__file__).resolve().parent
IMAGES = 18
MODEL = "tiny"
COMMAND = f"eval zeroshot --model {MODEL} --data photos --store store --results results"
ROOMS = ("evaluation", "embeddings", "sweep", "commands")
RECORDS = ("Request", "Compute")
LONG = 40  # lines of code of a function


def main(
    against: Annotated[str | None, typer.Option(help="Also a commit of this repository.")] = None,
    details: Annotated[bool, typer.Option("--list", help="Also print what was counted.")] = False,
    json: common.Json = None,
) -> None:
    """Functions that one run calls, its depth, and the size of the code."""
    with common.reported("code_path", json) as results, tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        if against is not None:
            with checked_out(against) as root:
                results[against] = measure(root, Path(folder))
        results["here"] = measure(HERE.parent, Path(folder))
        show(results)
        if details:
            show_details(results["here"])


def make_inputs(folder: Path) -> None:
    """`photos` in class folders, and a folder as open_clip's hub repositories are."""
    from clipjax.checkpoints.export import export_model

    stored_runs.write_photos(folder / "photos", IMAGES)
    (folder / MODEL).mkdir()
    model = stored_runs.narrow_model(MODEL)
    export_model(model, folder / MODEL / "open_clip_model.safetensors", "open_clip_vit")
    config = open_clip_config(model.card)
    (folder / MODEL / "open_clip_config.json").write_text(json_format.dumps(config))


def open_clip_config(card: Any) -> dict[str, Any]:
    """The card's architecture and preprocessing as open_clip writes them."""
    vision, text, preprocess = card.arch.vision, card.arch.text, card.preprocess
    tower = {"image_size": vision.image_size, "patch_size": vision.patch_size, "width": vision.width}
    tower |= {"layers": vision.layers, "head_width": vision.width // vision.heads}
    words = {
        name: getattr(text, name) for name in ("context_length", "vocab_size", "width", "heads", "layers")
    }
    pixels = {"size": [vision.image_size] * 2, "mode": "RGB", "mean": preprocess.mean, "std": preprocess.std}
    pixels |= {"interpolation": preprocess.interpolation, "resize_mode": preprocess.resize_mode}
    model = {"embed_dim": vision.embed_dim, "quick_gelu": True, "vision_cfg": tower, "text_cfg": words}
    return {"model_cfg": model, "preprocess_cfg": pixels}


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A commit's files in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "checkout"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--detach", str(root), commit], check=True, capture_output=True)
        try:
            yield root
        finally:
            subprocess.run([*git, "remove", "--force", str(root)], check=True)


def measure(root: Path, folder: Path) -> dict[str, Any]:
    """What is counted in a checkout."""
    return {"calls": calls_of(root, folder), **sizes_of(root)}


def calls_of(root: Path, folder: Path) -> dict[str, Any]:
    """What `code_path_run.py` writes. A run finds nothing stored and an empty cache."""
    with tempfile.TemporaryDirectory() as own:
        for name in ("photos", MODEL):
            (Path(own) / name).symlink_to(folder / name)
        out = Path(own) / "calls.json"
        command = [sys.executable, HERE / "code_path_run.py", root, out, *COMMAND.split()]
        environment = os.environ | {"PYTHONPATH": str(root), "CLIPJAX_CACHE": f"{own}/cache"}
        subprocess.run(command, cwd=own, env=environment, check=True, capture_output=True)
        return json_format.loads(out.read_text())


def sizes_of(root: Path) -> dict[str, Any]:
    rooms = code_size.sources(root / "clipjax" / room for room in ROOMS)
    clipjax = code_size.sources([root / "clipjax"])
    options = [field for record in RECORDS for field in code_size.fields_of(clipjax, record)]
    words = [code_size.mentions(file) for file in clipjax]
    lengths = {name.removeprefix(f"{root}/"): n for name, n in code_size.function_lengths(rooms).items()}
    asking = {str(file.path.relative_to(root)): code_size.kind_tests(file) for file in clipjax}
    return {
        "rooms": code_size.code_lines(rooms),
        "project": code_size.code_lines([*clipjax, *code_size.sources([root / "converters"])]),
        "lengths": lengths,
        "options": {option: sum(option in each for each in words) for option in options},
        "kinds": {file: count for file, count in asking.items() if count},
    }


def show(results: dict[str, Any]) -> None:
    """A column for each checkout."""
    columns = {name: figures(side) for name, side in results.items()}
    width = max(10, *(len(name) + 2 for name in columns))
    labels = list(columns["here"])
    lines = [("", "".join(f"{name:>{width}}" for name in columns))]
    lines += [
        (label, "".join(f"{column[label]:>{width},g}" for column in columns.values())) for label in labels
    ]
    common.table(lines)


def figures(side: dict[str, Any]) -> dict[str, float]:
    """The table's lines; `side` is of `measure`."""
    calls, options, kinds = side["calls"], side["options"], side["kinds"]
    lengths = side["lengths"].values()
    return {
        **functions("run", calls["run"]),
        **functions("process", [*calls["start"], *calls["run"]]),
        "calls from cli.main to the first encode_image": len(calls["stack"]) - 1,
        f"code lines of {', '.join(ROOMS)}": side["rooms"],
        "code lines of clipjax, converters": side["project"],
        "  median of a function of these rooms": statistics.median(lengths),
        f"  functions of these rooms above {LONG}": sum(each > LONG for each in lengths),
        f"options (fields of {' and '.join(RECORDS)})": len(options),
        "  files that spell one, median": statistics.median(options.values()),
        "  files that spell one, sum over options": sum(options.values()),
        "files that ask which kind of run they have": len(kinds),
        "  places where they ask": sum(kinds.values()),
    }


def functions(of: str, called: list[list[Any]]) -> dict[str, float]:
    distinct = {tuple(function) for function in called}
    named = [name for _, _, name, _ in distinct if not name.endswith(">")]
    return {
        f"functions of the {of}": len(named),
        f"  of the {of}, with lambdas and comprehensions": len(distinct),
        f"  files of the {of}": len({function[0] for function in distinct}),
    }


def show_details(side: dict[str, Any]) -> None:
    """The stack at `encode_image`, the functions by file, the long ones, the files by option and kind."""
    print("\nto the first encode_image:", *side["calls"]["stack"], sep="\n  ")
    names = defaultdict(list)
    for file, _, name, _ in side["calls"]["run"]:
        names[file].append(name)
    print("\nfunctions of the run:")
    for file, called in sorted(names.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"  {len(called):3} {file}: {', '.join(called)}")
    long = {name: length for name, length in side["lengths"].items() if length > LONG}
    tables = {f"functions above {LONG} lines of code": long, "files that spell": side["options"]}
    for title, counts in (tables | {"places that ask for the kind": side["kinds"]}).items():
        print(f"\n{title}:", *(f"  {count:3} {name}" for name, count in counts.items()), sep="\n")


if __name__ == "__main__":
    typer.run(main)
