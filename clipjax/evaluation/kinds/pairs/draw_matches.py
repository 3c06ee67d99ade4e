"""`clipjax.draw_matches`: a picture of the matches of pairs of images.

clipjax.draw_matches("vit_b_16-openai", "pair.png", dataset="navi", root="/data/navi")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipjax.analysis.figures.matches import PairMatches, matches_figure
from clipjax.analysis.figures.style import check_picture
from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import Dataset
from clipjax.data.pairs.matching import NORMALISATIONS, Matching
from clipjax.data.pairs.pair import PairSet
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.pairs import match_pairs
from clipjax.errors import UsageError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.kinds.pairs.pairs import PairSubject, not_applicable, pairs_of, resolve
from clipjax.evaluation.models.encoders import encoder
from clipjax.evaluation.request import Request
from clipjax.guards import at_least, known_name
from clipjax.tasks.correspondence import CURVE, PLACES, TASK, PairMatcher, limits_of

UNITS = {"3d": " m", "2d": " px", "pck": " of the larger side of the box"}


def draw_matches(
    models: object,
    out: str | Path,
    *,
    dataset: str | Path | Dataset | None = None,
    root: str | Path | None = None,
    pairs: Sequence[str] = (),
    drawn: int = 80,
    precision: str = "parity",
    layers: str | None = None,
    attention: str | None = None,
    positions: str | None = None,
) -> list[PairMatches]:
    """Draw the matches of the task `correspondence`, right and wrong ones by the card's `curve`.

    Args:
        models: a model as `clipjax.evaluate` takes it, or a list of them.
        out: .png, .jpg, .pdf or .svg.
        dataset: a data set of pairs, as in `clipjax.evaluate`.
        root: its folder, as in `clipjax.evaluate`.
        pairs: ids as in images.parquet; default: the first pair.
        drawn: at most this many lines per pair, spread over the ranks of the matches.
        precision: as in `clipjax.evaluate`.
        layers: as in `clipjax.evaluate`.
        attention: as in `clipjax.evaluate`.
        positions: as in `clipjax.evaluate`.

    Returns: what is drawn, for each model and pair.

    Raises:
        UsageError, DataError: as `clipjax.evaluate`; an unknown pair or format.
    """
    out = Path(out).expanduser()
    check_picture(out)
    at_least("draw at least one match", drawn, 1)
    request = Request(
        dataset=dataset,
        root=root,
        precision=precision,
        layers=layers,
        attention=attention,
        positions=positions,
    )
    data = dataset_of(request)
    all_pairs, matching = pairs_of(data, TASK.name)
    rows, sides = _rows(all_pairs, pairs), []  # first: loading a model takes longer
    for model in models if isinstance(models, list | tuple) else [models]:
        subject = _subject(encoder(model), data, request)
        sides += [_matched(subject, row, precision) for row in rows]
    matches_figure(sides, out, right_words(matching), drawn)
    return sides


def right_words(matching: Matching) -> str:
    """ "less than 0.02 m off" """
    return f"less than {matching.curve.threshold:g}{UNITS[matching.curve.metric]} off"


def _subject(model: Encoder, data: Dataset, request: Request) -> PairSubject:
    if (reason := not_applicable(model, TASK)) is not None:
        raise UsageError(reason)
    return resolve(model, TASK, data, request)


def _rows(pairs: PairSet, names: Sequence[str]) -> list[int]:
    ids = list(pairs.ids)
    for name in names:
        known_name("pair", name, ids, shown=3)
    return [ids.index(name) for name in names] or [0]


def _matched(subject: PairSubject, row: int, precision: str) -> PairMatches:
    pairs, matching = subject.pairs, subject.matching
    matcher = PairMatcher(matching, places=True)
    alone = dataclasses.replace(subject.data.manifest, pairs=pairs.select([row]))
    compute = Compute(progress=False)
    [numbers] = match_pairs(subject.model, alone, matcher, subject.maps, compute, precision=precision).array
    by_name = dict(zip(matcher.numbers, numbers[numbers[:, 0] >= 0].T))
    error, threshold = limits_of(matching)[CURVE]
    ends = np.stack([by_name[name] for name in PLACES], axis=1).reshape(-1, 2, 2)
    name = f"{subject.model.card.id}, {pairs.ids[row]}"
    return PairMatches(name, _pixels(pairs.load(row).images, matching), ends, by_name[error] < threshold)


def _pixels(images: np.ndarray, matching: Matching) -> np.ndarray:
    """Normalised images [2, H, W, 3] -> uint8."""
    mean, std = (np.array(each, np.float32) for each in NORMALISATIONS[matching.normalisation])
    return np.clip(np.round((images * std + mean) * 255), 0, 255).astype(np.uint8)
