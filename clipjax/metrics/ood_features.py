"""OOD scores of features, fitted on training images: KNN, Mahalanobis, relative Mahalanobis, ViM.

LARGER IS ALWAYS MORE IN-DISTRIBUTION. The definitions are those of OpenOOD v1.5. Neighbours are found by a
jitted kernel. Covariances, inverses and what rests on them are float64 NumPy: a TPU has no float64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

Features = Float[np.ndarray, "N D"]
Scores = Float[np.ndarray, " N"]

NEIGHBOUR = 50  # as OpenOOD's default
KEPT = 256  # dimensions of ViM, as OpenOOD's default
# Directions of a head below this share of its largest singular value are rounding: in OpenOOD's float32 their
# inverse moves ViM's origin.
HEAD_RANK = 1e-6
_BLOCK = 2**22  # numbers held at once
_FIT_ROWS = 2**13  # fit images that one step compares


def knn(features: Features, fit: Float[np.ndarray, "M D"], neighbour: int = NEIGHBOUR) -> Scores:
    """Minus the squared distance to a near training image, all features at unit norm (Sun et al. 2022).

    Args:
        features: of the images to score, any norm; float64 needs `jax.enable_x64`.
        fit: of all training images.
        neighbour: which one, counted from 1.

    Raises ValueError for fewer training images than `neighbour`.
    """
    if len(fit) < neighbour:
        raise ValueError(f"{len(fit)} training images have no neighbour {neighbour}")
    size = min(len(fit), _FIT_ROWS)
    steps = -(-len(fit) // size)
    padded = np.pad(_unit(fit), ((0, steps * size - len(fit)), (0, 0)), constant_values=np.nan)
    blocks = jnp.asarray(padded.reshape(steps, size, -1))
    rows = max(1, min(len(features), _BLOCK // size))
    made = []
    for start in range(0, len(features), rows):
        some = _unit(features[start : start + rows])
        filled = np.pad(some, ((0, rows - len(some)), (0, 0)))
        made.append(np.asarray(_nearest(filled, blocks, neighbour=neighbour))[: len(some)])
    return np.concatenate(made)


def _unit(features: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norm, np.finfo(features.dtype).tiny)


@functools.partial(jax.jit, static_argnames="neighbour")
def _nearest(
    features: Float[jax.Array, "N D"], blocks: Float[jax.Array, "S F D"], *, neighbour: int
) -> Float[jax.Array, " N"]:
    """NaN rows of `blocks` are padding."""
    own = jnp.sum(features * features, axis=1, keepdims=True)

    def closer(found: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
        product = jnp.matmul(features, block.T, precision=jax.lax.Precision.HIGHEST)
        score = 2 * product - own - jnp.sum(block * block, axis=1)
        score = jnp.where(jnp.isnan(score), -jnp.inf, score)
        return jax.lax.top_k(jnp.concatenate([found, score], axis=1), neighbour)[0], None

    nothing = jnp.full((features.shape[0], neighbour), -jnp.inf, features.dtype)
    found, _ = jax.lax.scan(closer, nothing, blocks)
    return jnp.minimum(found[:, -1], 0)  # rounding may take the distance of equal features below 0


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Normal distributions of the classes, with one covariance.

    Attributes:
        means: float64 [C, D], of the classes with images.
        whitening: float64 [D, R]; its product with its transpose is the inverse of the covariance, over the R
            directions in which there is variance.
    """

    means: np.ndarray
    whitening: np.ndarray

    @property
    def rank(self) -> int:
        return self.whitening.shape[1]


def fit_gaussians(features: Features, labels: Int[np.ndarray, " N"]) -> Gaussians:
    """The mean of each class, and the covariance within classes divided by the number of images.

    Lee et al. 2018. Directions without variance have no inverse, as in scikit-learn's `EmpiricalCovariance`.

    Args:
        labels: the true classes; all equal for the background of `relative_mahalanobis`.
    """
    codes = np.unique(labels, return_inverse=True)[1]
    counts, (n, dim) = np.bincount(codes), features.shape
    sums = np.zeros((len(counts), dim))
    for rows, block in _blocks(features):
        np.add.at(sums, codes[rows], block)
    means = sums / counts[:, None]
    covariance = np.zeros((dim, dim))
    for rows, block in _blocks(features):
        centred = block - means[codes[rows]]
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / n)
    kept = values > max(values[-1], 0) * dim * np.finfo(np.float64).eps  # scipy.linalg.pinvh's
    return Gaussians(means, vectors[:, kept] / np.sqrt(values[kept]))


def mahalanobis(features: Features, fit: Gaussians) -> Scores:
    """Minus the squared Mahalanobis distance to the nearest class (Lee et al. 2018); float64."""
    origin = fit.means.mean(axis=0)
    means = (fit.means - origin) @ fit.whitening
    lengths, made = (means * means).sum(axis=1), []
    for _, block in _blocks(features, len(means)):
        white = (block - origin) @ fit.whitening
        nearest = (2 * white @ means.T - lengths).max(axis=1)
        made.append(nearest - (white * white).sum(axis=1))
    return np.concatenate(made)


def relative_mahalanobis(features: Features, fit: Gaussians, background: Gaussians) -> Scores:
    """`mahalanobis` less that of one normal distribution of all images (Ren et al. 2021); float64."""
    return mahalanobis(features, fit) - mahalanobis(features, background)


@dataclass(frozen=True, eq=False)
class ResidualSpace:
    """What ViM takes from the training images.

    Attributes:
        origin: float64 [D], where all logits are least squares' closest to 0.
        residual: float64 [D, D - kept], the directions in which training features vary least.
        alpha: brings residuals to the size of logits; infinite where training features have no residual.
    """

    origin: np.ndarray
    residual: np.ndarray
    alpha: float


def fit_residual_space(
    features: Features,
    largest_logits: Float[np.ndarray, " N"],
    kernel: Float[np.ndarray, "D K"],
    bias: Float[np.ndarray, " K"] | None,
    kept: int,
) -> ResidualSpace:
    """Fit ViM (Wang et al. 2022) to the features of training images.

    Args:
        largest_logits: of these images, of `features @ kernel + bias`.
        bias: None: zeros.
        kept: dimensions of the principal space, below D.
    """
    weight, dim = np.asarray(kernel, np.float64).T, features.shape[1]
    origin = np.zeros(dim)
    if bias is not None:
        origin = -np.linalg.pinv(weight, rcond=HEAD_RANK) @ np.asarray(bias, np.float64)
    scatter = np.zeros((dim, dim))  # about the origin: no mean is subtracted
    for _, block in _blocks(features):
        scatter += (block - origin).T @ (block - origin)
    residual = np.linalg.eigh(scatter / len(features))[1][:, : dim - kept]
    norms = _residuals(features, origin, residual)
    size = float(np.sqrt(np.trace(scatter) / len(features)))
    # Rounding leaves about 1e-8 of features that lie in `kept` dimensions, stored as float32.
    flat = norms.mean() <= 1e-6 * size
    alpha = np.inf if flat else float(np.mean(largest_logits, dtype=np.float64) / norms.mean())
    return ResidualSpace(origin, residual, alpha)


def vim(features: Features, energies: Float[np.ndarray, " N"], fit: ResidualSpace) -> Scores:
    """Virtual-logit matching (Wang et al. 2022): logsumexp(logits) - alpha x norm of the residual; float64.

    Args:
        energies: logsumexp of the images' logits.
    """
    return np.asarray(energies, np.float64) - fit.alpha * _residuals(features, fit.origin, fit.residual)


def _residuals(features: np.ndarray, origin: np.ndarray, residual: np.ndarray) -> np.ndarray:
    parts = [np.linalg.norm((block - origin) @ residual, axis=1) for _, block in _blocks(features)]
    return np.concatenate(parts)


def _blocks(features: np.ndarray, width: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows as float64, in blocks whose size times the width (of the features, or more) is limited."""
    size = max(1, _BLOCK // max(width, features.shape[1]))
    for start in range(0, len(features), size):
        rows = slice(start, start + size)
        yield rows, np.asarray(features[rows], np.float64)
