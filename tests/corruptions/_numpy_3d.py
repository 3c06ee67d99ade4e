"""3D common corruptions a second time, in NumPy and SciPy, written from their description alone."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

ATTENUATION = (4, 8, 12, 16, 20)
DISTANCE = (2.4, 1.4, 0.9, 0.6, 0.4)


def fog(image: np.ndarray, depth: np.ndarray, severity: int) -> np.ndarray:
    through = np.exp(-ATTENUATION[severity - 1] * depth.astype(np.float64))[..., None]
    return through * image + (1 - through) * image.mean(dtype=np.float64)


def flash(image: np.ndarray, reshading: np.ndarray, severity: int) -> np.ndarray:
    return np.minimum(1, image + image.astype(np.float64) * reshading[..., None] / DISTANCE[severity - 1])


def focus(image: np.ndarray, depth: np.ndarray, severity: int, kind: str) -> np.ndarray:
    aperture, which = (severity + 2, 0) if kind == "near_focus" else (severity + 0.5, 7)
    q = np.quantile(depth, np.linspace(0, 1, 9)).astype(np.float64)
    q[0] -= 1e-4
    q[8] += 1e-4
    copies = [_blurred(image.astype(np.float64), aperture * abs(q[i] - q[which]) / q[i]) for i in range(9)]
    out = np.empty(image.shape)
    for y, x in np.ndindex(depth.shape):
        j = int(np.argmax(q >= depth[y, x]))
        left = (depth[y, x] - q[j - 1]) / (q[j] - q[j - 1])
        weights = 1 - left**2, 1 - (1 - left) ** 2
        out[y, x] = (weights[0] * copies[j - 1][y, x] + weights[1] * copies[j][y, x]) / sum(weights)
    return out


def _blurred(image: np.ndarray, radius: float) -> np.ndarray:
    if radius < 0.1:
        return image
    length = int(3 * radius)
    length += length % 2 == 0
    n = np.arange(length) - length // 2
    taps = np.exp(-(n**2) / (2 * radius**2))
    taps /= taps.sum()
    return correlate1d(correlate1d(image, taps, 0, mode="nearest"), taps, 1, mode="nearest")
