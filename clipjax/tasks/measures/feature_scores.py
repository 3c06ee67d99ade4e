"""OOD scores of features, fitted on training images: for each image a score, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.labels import Projection
from clipjax.errors import DataError
from clipjax.heads.head import Head, cosine_head, score_blocks
from clipjax.metrics import ood_features as kernels
from clipjax.metrics import ood_scores
from clipjax.tasks.inputs import ImageInputs

FEATURE_SCORES = ("knn", "mahalanobis", "relative_mahalanobis", "vim")
FITS: Mapping[str, Any] = {
    "version": 1,
    "features": "what the head reads: of unit norm where it normalises (a zero-shot model)",
    "knn": f"minus the squared distance to neighbour {kernels.NEIGHBOUR} of all fit images, at unit norm",
    "mahalanobis": "true classes, one covariance within classes, divided by n; squared",
    "relative_mahalanobis": "less the same of one normal distribution of all fit images",
    "vim": f"{kernels.KEPT} dimensions kept, of narrow features half; origin -pinv(W) b, no mean subtracted",
    "vim_zero_shot": "W = scale x class embeddings; a bias that all classes share is left out, so b = 0",
}
NOT = "not applicable: "


def described(fit: ImageInputs, sides: list[ImageInputs], energies: np.ndarray) -> dict[str, Any]:
    """Columns of the images of all sides, in order: each score that there is, and `note_SCORE`, a text.

    Args:
        energies: [N], logsumexp of the logits over the ID classes.

    Raises DataError if all training images have the same features.
    """
    head = fit.head
    assert head is not None
    assert fit.labels is not None
    trained, tested = (_read_by(head, *those) for those in ([fit], sides))
    if not np.ptp(trained, axis=0).any():
        raise DataError(
            f"{fit.dataset}: all {len(trained)} images have the same features, and nothing can be fitted: "
            "check the model, and the images to fit on (--fit-data)"
        )
    columns: dict[str, Any] = {}
    for name, (values, note) in {
        "knn": _knn(trained, tested),
        **_distances(trained, fit.labels, tested),
        "vim": _vim(head, fit, trained, tested, energies),
    }.items():
        columns |= {} if values is None else {name: values}
        columns[f"note_{name}"] = [note] * len(tested)
    return columns


class _Scored(NamedTuple):
    """A score of all images, with what it rests on; None, with the reason."""

    values: np.ndarray | None
    note: str


def _read_by(head: Head, *sides: ImageInputs) -> np.ndarray:
    """float32 [N, D], what the head reads of each image."""
    features = np.concatenate([np.asarray(side.features, np.float32) for side in sides])
    if not head.normalize:
        return features
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.float32(1e-12))


def _knn(trained: np.ndarray, tested: np.ndarray) -> _Scored:
    if len(trained) < kernels.NEIGHBOUR:
        return _Scored(None, f"{NOT}{len(trained)} fit images have no neighbour {kernels.NEIGHBOUR}")
    note = f"neighbour {kernels.NEIGHBOUR} of {len(trained)} fit images"
    return _Scored(kernels.knn(tested, trained), note)


def _distances(trained: np.ndarray, labels: np.ndarray, tested: np.ndarray) -> dict[str, _Scored]:
    """Mahalanobis distances, of enough images for a covariance: the reference has no shrinkage."""
    (n, dim), classes = trained.shape, len(np.unique(labels))
    names = ("mahalanobis", "relative_mahalanobis")
    if n < dim + classes:
        why = (
            f"{NOT}a covariance of {dim} dimensions within {classes} classes needs {dim + classes} fit "
            f"images, and there are {n}"
        )
        return dict.fromkeys(names, _Scored(None, why))
    fit, background = (kernels.fit_gaussians(trained, each) for each in (labels, np.zeros_like(labels)))
    if not fit.rank:
        return dict.fromkeys(
            names, _Scored(None, f"{NOT}the fit images of a class all have the same features")
        )
    note = f"{n} fit images of {classes} classes, covariance of rank {fit.rank} of {dim}"
    values = kernels.mahalanobis(tested, fit), kernels.relative_mahalanobis(tested, fit, background)
    return {name: _Scored(each, note) for name, each in zip(names, values)}


def _vim(
    head: Head, fit: ImageInputs, trained: np.ndarray, tested: np.ndarray, energies: np.ndarray
) -> _Scored:
    columns = _classes(head, fit.projection)
    if columns is None:
        return _Scored(
            None, f"{NOT}the logits are not linear in the features (a cache, or classes in groups)"
        )
    dim = trained.shape[1]
    kept = min(kernels.KEPT, dim // 2)
    if len(trained) <= kept:
        return _Scored(None, f"{NOT}{len(trained)} fit images do not span the {kept} dimensions to keep")
    kernel = np.float32(head.scale) * np.asarray(head.kernel)[:, columns]
    bias, shift = (None if head.bias is None else np.asarray(head.bias, np.float64)[columns]), 0.0
    if bias is not None and cosine_head(head) is not None and np.ptp(bias) == 0:
        bias, shift = None, float(bias[0])
    largest = [
        ood_scores.max_logit(scores.values) for _, scores in score_blocks(head, fit.features, fit.projection)
    ]
    space = kernels.fit_residual_space(trained, np.concatenate(largest) - shift, kernel, bias, kept)
    if not 0 < space.alpha < np.inf:
        why = "have no residual" if np.isinf(space.alpha) else "have no positive largest logit on average"
        return _Scored(None, f"{NOT}the fit images {why} ({kept} of {dim} dimensions kept)")
    note = f"{kept} of {dim} dimensions kept, alpha {space.alpha:.4g} of {len(trained)} fit images"
    return _Scored(kernels.vim(tested, np.asarray(energies, np.float64) - shift, space), note)


def _classes(head: Head, projection: Projection | None) -> list[int] | None:
    """The columns of the head that are the classes' logits; None if they are not linear in the features."""
    if head.cache is not None:
        return None
    if projection is None:
        return list(range(np.shape(head.kernel)[1]))
    return [group[0] for group in projection.groups] if projection.kind == "select" else None
