"""Check a data set before a run: layout, counts, class order, prompts, unreadable images, unusable pairs.

A problem's sentence names the right folder if that is near.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image

from clipjax.data.cards import Dataset, DatasetCard, load_dataset, own_prompts, read_card, said_of
from clipjax.data.corrupted.opener import CorruptedOpener, source_of
from clipjax.data.labels import load_projection
from clipjax.data.manifest import IMAGE_EXTENSIONS, Manifest, Progress
from clipjax.data.pixels.limits import DECODED
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, resized_size
from clipjax.data.questions import questions_of
from clipjax.data.readers.reader import ARCHIVES, CLASS_FOLDERS, IMAGES, find_reader
from clipjax.data.readers.walk import FolderEntry, list_folder
from clipjax.errors import ClipjaxError, DataError, counted, some_of
from clipjax.storage.reading import exists, is_dir, is_file, read_json, read_text
from clipjax.storage.remote.buckets import as_path

PACKED = (".tar", ".tar.gz", ".tgz", ".zip")
SHRINK = 8  # JPEGs are decoded at 1/8 of their size
USUAL = PixelRecipe(224, 224)  # decides which images are too thin: the model is not known
NEARBY = 50  # folders searched per level for the right one
NAMED = 8  # classes, files, ... named before "and N more"
MAPPINGS = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)


def check_dataset(
    root: str | Path,
    card: str | Path | DatasetCard,
    progress: Progress | None = None,
    *,
    decode: bool = True,
) -> list[str]:
    """Every problem of the data at `root`, one sentence each.

    Args:
        progress: called with each image's bytes.
        decode: also read every image, JPEGs at an eighth of their size (truncation still shows), and every
            pair with its depths, poses, keypoints and masks, and what a card's [corruption] reads.

    Raises:
        UsageError, DataError: as `read_card`.
    """
    card = card if isinstance(card, DatasetCard) else read_card(card)
    near = as_path(root).expanduser()
    try:
        dataset = load_dataset(card, root)
    except DataError as error:
        return ["; ".join([str(error), *_hints(near, card, str(error))])]
    problems = [
        *_count_problems(near, dataset),
        *_order_problems(dataset.manifest),
        *_name_problems(dataset),
        *_question_problems(dataset),
        *filter(None, [dataset.manifest.lacks]),
        *_mapping_problems(near.parent / "mappings", dataset),
    ]
    if decode:
        problems += [*_unreadable(source_of(dataset.manifest), progress), *_unusable(dataset.manifest)]
    return problems


def _count_problems(root: Path, dataset: Dataset) -> Iterator[str]:
    card, manifest = dataset.card, dataset.manifest
    if card.images is not None and len(manifest) != card.images:
        other = None if _names_classes(card) else _right_folder(root, card)
        hint = f"; {other} holds {card.images}: give that folder" if other else ""
        yield f"{root} holds {counted(len(manifest), 'image')}; {card.title} has {card.images}{hint}"
    if card.pairs is not None and manifest.pairs is not None and len(manifest.pairs) != card.pairs:
        yield f"{root} lists {counted(len(manifest.pairs), 'pair')}; {card.title} has {card.pairs}"
    if card.per_class is not None:
        yield from _class_problems(card.title, card.per_class, manifest)


def _class_problems(title: str, per_class: int, manifest: Manifest) -> Iterator[str]:
    if manifest.labels is None or manifest.label_names is None:
        return
    counts = np.bincount(manifest.labels, minlength=len(manifest.label_names))
    wrong = [(name, n) for name, n in zip(manifest.label_names, counts) if n != per_class]
    for name, count in wrong[:NAMED]:
        yield f"class {name} has {counted(count, 'image')}; {title} has {per_class}"
    if len(wrong) > NAMED:
        more = counted(len(wrong) - NAMED, "more class does", "more classes do")
        yield f"{more} not have {counted(per_class, 'image')}"


def _order_problems(manifest: Manifest) -> Iterator[str]:
    """Class numbers in the order of texts give wrong labels that look right."""
    names = manifest.label_names or ()
    if names and all(name.isdecimal() for name in names):
        by_value = sorted(names, key=int)
        if list(names) != by_value and list(names) == sorted(names):
            yield (
                f"the classes are numbers in the order of texts ({', '.join(names[:4])}, ...): list them by "
                "value, or set folder_is_index = true under [options] of the card"
            )


def _name_problems(dataset: Dataset) -> Iterator[str]:
    card, space, head = dataset.card, dataset.label_space, dataset.head_space
    try:
        prompts = own_prompts(card)
        if prompts is not None and head is not None:
            with said_of(card, "prompts"):
                for name in head.classes:
                    prompts.of_class(name)
        if space is not None and head is not None:
            with said_of(card, "head_space"):
                load_projection(head, space)
    except ClipjaxError as error:
        yield str(error)


def _question_problems(dataset: Dataset) -> Iterator[str]:
    """The problems of questions. Lists give options only to a run: here the category is checked."""
    question, manifest, space = dataset.card.question, dataset.manifest, dataset.label_space
    if question is None:
        return
    if question.lists and (manifest.labels is None or space is None):
        yield f"card {dataset.card.name}: [question] with lists needs classes, and the images have none"
        return
    wrong = None
    if question.lists:
        if len(space or ()) < 2:
            yield f"card {dataset.card.name}: [question] with lists needs two classes or more"
            return
        labels = np.asarray(manifest.labels)
        wrong = ((labels + 1) % len(space or ()))[:, None]
    try:
        questions_of(question, manifest, space, manifest.labels, wrong)
    except DataError as error:
        yield str(error)


def _unreadable(manifest: Manifest, progress: Progress | None) -> Iterator[str]:
    """Why images cannot be read or resized, a sentence each, in their order; `progress` gets their bytes."""

    def check(i: int) -> tuple[str | None, int]:
        def shrink(image: PIL.Image.Image) -> int:
            try:
                resized_size(image.size, USUAL)
            except DataError as error:
                raise DataError(f"{manifest.ids[i]}: {error}; replace or remove it") from None
            return SHRINK

        try:
            data = manifest.open(i)
            with DECODED.waiting() as before:
                open_image(data, manifest.ids[i], shrink=shrink, before=before)
            return None, len(data)
        except DataError as error:
            return str(error), 0

    with ThreadPoolExecutor() as pool:
        for problem, size in pool.map(check, range(len(manifest))):
            if problem:
                yield problem
            if progress is not None:
                progress(size)


def _unusable(manifest: Manifest) -> Iterator[str]:
    pairs, opener = manifest.pairs, manifest.opener
    if isinstance(opener, CorruptedOpener):
        with ThreadPoolExecutor() as pool:
            for problems in pool.map(opener.problems, range(len(manifest))):
                yield from problems
    if pairs is not None:
        with ThreadPoolExecutor() as pool:
            for problems in pool.map(pairs.problems, range(len(pairs))):
                yield from problems


def _hints(root: Path, card: DatasetCard, message: str) -> Iterator[str]:
    if _layout(card) == ARCHIVES:  # archives are the data themselves
        return
    if not exists(root) and (beside := _archives(root.parent)):
        yield f"the archive {beside[0]} is beside it: unpack it"
    if not is_dir(root):
        return
    other = _right_folder(root, card)
    if other is not None:
        where = "too deep" if other in root.absolute().parents else "not deep enough"
        if f"{other}: give" not in message and "give its parent" not in message:
            yield f"this folder is {where}, give {other}"
        return
    archives = _archives(root)
    if len(archives) > 1:
        yield f"{root} holds {len(archives)} archives ({archives[0].name}, ...): unpack each"
    elif archives:
        yield f"the archive {archives[0].name} is in it: unpack it"
    if _layout(card) == CLASS_FOLDERS:
        yield from _folder_hints(root, card)


def _folder_hints(root: Path, card: DatasetCard) -> Iterator[str]:
    entries = _listed(root)
    loose = sum(os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS for entry in entries)
    if loose and not any(entry.kind == "folder" for entry in entries):
        loose_images = counted(loose, "image is", "images are")
        yield f"its {loose_images} there without class folders: sort into one folder per class"
    if any(entry.name == "__MACOSX" for entry in entries):
        yield f"remove {root / '__MACOSX'}, which a Mac's archiver leaves"
    if card.options.get("folder_is_index") and any(entry.name.startswith("n0") for entry in entries):
        yield "its folders are synsets, where the published ones are class numbers: take the original archive"


def _layout(card: DatasetCard) -> str:
    return find_reader(card.reader).layout


def _archives(folder: Path) -> list[Path]:
    return [folder / entry.name for entry in _listed(folder) if entry.name.lower().endswith(PACKED)]


def _right_folder(root: Path, card: DatasetCard) -> Path | None:
    if card.images is None and not _names_classes(card):
        return None
    for folder in _nearby(root, card):
        try:
            manifest = load_dataset(card, folder).manifest
        except ClipjaxError:
            continue
        if len(manifest) == card.images or (_names_classes(card) and _layout(card) != IMAGES):
            return folder
    return None


def _names_classes(card: DatasetCard) -> bool:
    return card.label_space is not None or card.classes is not None


def _nearby(root: Path, card: DatasetCard) -> Iterator[Path]:
    if not is_dir(root):
        return
    parts = Path(card.place or card.name).parts
    seen = {root}
    below = list(_folders(root))
    candidates = [root.joinpath(*parts[i:]) for i in range(len(parts))]
    candidates += below + [folder for parent in below for folder in _folders(parent)]
    loose = _layout(card) in (IMAGES, CLASS_FOLDERS)
    if not loose or _names_classes(card):  # otherwise the whole parent would be read
        candidates += list(islice(root.absolute().parents, 2))
    for folder in candidates:
        if folder not in seen and is_dir(folder):
            seen.add(folder)
            yield folder


def _folders(root: Path) -> Iterator[Path]:
    return islice((root / entry.name for entry in _listed(root) if entry.kind == "folder"), NEARBY)


def _listed(folder: Path) -> list[FolderEntry]:
    """Empty if unreadable: the reader reports that."""
    try:
        return sorted(list_folder(folder))
    except DataError:
        return []


def _mapping_problems(folder: Path, dataset: Dataset) -> Iterator[str]:
    space, head = dataset.label_space, dataset.head_space
    if dataset.card.label_space != "objectnet" or space is None or head is None or not is_dir(folder):
        return
    if missing := [name for name in MAPPINGS if not is_file(folder / name)]:
        yield f"{folder} lacks {', '.join(missing)}; unpack the archive again"
        return
    projection = load_projection(head, space)
    try:
        theirs = _objectnet_groups(folder)
    except (ValueError, KeyError, AttributeError, TypeError, DataError) as error:
        what = f"{type(error).__name__}: {error}"
        yield f"{folder}: its mappings are damaged ({what}); unpack the archive again"
        return
    ours = dict(zip(space.ids, map(set, projection.groups))) if projection is not None else {}
    if differing := [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]:
        yield f"{folder} maps {some_of(differing, NAMED)} to other ImageNet classes than configs/labels does"


def _objectnet_groups(folder: Path) -> dict[str, set[int]]:
    """Image folder -> ImageNet classes, joined as in mlfoundations/wise-ft (src/datasets/objectnet.py)."""
    label_of, names_of, number_of = (read_json(folder / name) for name in MAPPINGS[:3])
    lines = read_text(folder / MAPPINGS[3]).splitlines()
    index_of_number = {number: int(index) for index, number in number_of.items()}
    index = {line.strip(): index_of_number[number] for number, line in enumerate(lines)}
    return {
        name: {index[part] for part in names_of[label].split("; ")}
        for name, label in label_of.items()
        if label in names_of
    }
