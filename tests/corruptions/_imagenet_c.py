"""ImageNet-C and other 2D kinds in NumPy, SciPy, scikit-image and Pillow, from the draws of jax.random.

A reference takes (x, key, *constants): x float64 [S, S, 3] in [0, 1]. It returns values in [0, 1], before the
last clipping. The constants of each severity are written here again, in the order of the reference code.
"""

from __future__ import annotations

import heapq
import io
import math
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage, stats
from skimage.color import hsv2rgb, rgb2hsv
from skimage.filters import gaussian

CONSTANTS: dict[str, list[Any]] = {
    "gaussian_noise": [(0.08,), (0.12,), (0.18,), (0.26,), (0.38,)],
    "shot_noise": [(60,), (25,), (12,), (5,), (3,)],
    "impulse_noise": [(0.03,), (0.06,), (0.09,), (0.17,), (0.27,)],
    "speckle_noise": [(0.15,), (0.2,), (0.35,), (0.45,), (0.6,)],
    "gaussian_blur": [(1,), (2,), (3,), (4,), (6,)],
    "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "zoom_blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    "snow": [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
    "frost": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    "spatter": [
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ],
    "brightness": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
    "contrast": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
    "saturate": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    "elastic_transform": [
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    ],
    "iso_noise": [(80, 0.03), (40, 0.05), (20, 0.08), (10, 0.12), (5, 0.18)],
    "low_light": [(1, 80, 0.005), (1.5, 80, 0.005), (2, 80, 0.005), (2.5, 80, 0.005), (3, 80, 0.005)],
    "color_quant": [(5,), (4,), (3,), (2,), (1,)],
    "pixelate": [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)],
    "jpeg_compression": [(25,), (18,), (15,), (10,), (7,)],
}


def uniform(key, shape, lowest=-1.0):
    return np.asarray(jax.random.uniform(key, shape, minval=lowest), np.float64)


def normal(key, shape):
    return np.asarray(jax.random.normal(key, shape), np.float64)


def levels(x):
    """uint8, rounded down; with a thousandth more, so that flat areas keep their level."""
    return (np.clip(x, 0, 1) * 255 + 1e-3).astype(np.uint8)


def gaussian_noise(x, key, c):
    return x + normal(key, x.shape) * c


def speckle_noise(x, key, c):
    return x + x * normal(key, x.shape) * c


def shot_noise(x, key, c):
    return np.maximum(stats.poisson.ppf(uniform(key, x.shape, 0.0), x * c), 0) / c


def impulse_noise(x, key, c):
    which, value = jax.random.split(key)
    out = x.copy()
    hit, salt = uniform(which, x.shape, 0.0) <= c, uniform(value, x.shape, 0.0) <= 0.5
    out[hit & salt], out[hit & ~salt] = 1, 0
    return out


def gaussian_blur(x, key, c):
    return gaussian(x, sigma=c, channel_axis=-1)


def glass_blur(x, key, sigma, reach, rounds, swap=False):
    old = levels(gaussian(x, sigma=sigma, channel_axis=-1))
    size = len(x)
    shifts = np.asarray(jax.random.randint(key, (rounds, size, size, 2), -reach, reach))
    for shift in shifts:
        for h in range(size - reach, reach, -1):
            for w in range(size - reach, reach, -1):
                dx, dy = shift[h, w]
                here = old[h, w].copy()
                old[h, w] = old[h + dy, w + dx]
                if swap:
                    old[h + dy, w + dx] = here
    return gaussian(old / 255, sigma=sigma, channel_axis=-1)


def defocus_blur(x, key, radius, sigma):
    far, reach = (8, 1) if radius <= 8 else (radius, 2)
    across = np.arange(-far, far + 1)
    disk = (np.hypot(across, across[:, None]) <= radius).astype(float)
    disk = ndimage.gaussian_filter(disk / disk.sum(), sigma, mode="mirror", radius=reach)
    return np.stack([ndimage.correlate(x[..., c], disk, mode="mirror") for c in range(3)], -1)


def motion(x, radius, sigma, angle):
    """Each tap is a whole pixel along a line."""
    size, taps = len(x), 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(taps) ** 2) / (2 * sigma**2))
    row, column = np.mgrid[:size, :size]
    total = 0
    for k, weight in enumerate(weights / weights.sum()):
        y = math.ceil(k * math.sin(math.radians(angle)) - 0.5)
        z = math.ceil(k * math.cos(math.radians(angle)) - 0.5)
        total = total + weight * x[np.clip(row + y, 0, size - 1), np.clip(column + z, 0, size - 1)]
    return np.floor(np.clip(total, 0, 1) * 255 + 0.5) / 255


def motion_blur(x, key, radius, sigma):
    return motion(x, radius, sigma, 45 * float(uniform(key, ())))


def clipped_zoom(x, factor):
    size = len(x)
    inside = math.ceil(size / factor)
    top = (size - inside) // 2
    out = np.asarray(ndimage.zoom(x[top : top + inside, top : top + inside], (factor, factor, 1), order=1))
    trim = (len(out) - size) // 2
    return out[trim : trim + size, trim : trim + size]


def zoom_blur(x, key, end, step):
    zooms = np.arange(1, end, step)
    return (x + sum(clipped_zoom(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


def plasma(key, size, decay):
    """A map as the reference keeps it: one array, filled in place, step by step."""
    grid = np.zeros((size, size))
    step, width = size, 100.0
    left = iter(uniform(key, (size**2 - 1,)))
    while step > 1:
        count = size // step
        draws = np.array([next(left) for _ in range(3 * count**2)]).reshape(3, count, count) * width**2
        half = step // 2
        for (y, x), neighbours, draw in (
            ((half, half), [(-half, -half), (-half, half), (half, -half), (half, half)], draws[0]),
            ((0, half), [(0, -half), (0, half), (-half, 0), (half, 0)], draws[1]),
            ((half, 0), [(0, -half), (0, half), (-half, 0), (half, 0)], draws[2]),
        ):
            rows, columns = np.arange(y, size, step), np.arange(x, size, step)
            mean = sum(grid[np.ix_((rows + p) % size, (columns + q) % size)] for p, q in neighbours) / 4
            grid[np.ix_(rows, columns)] = mean + draw
        step, width = half, width / decay
    grid -= grid.min()
    return grid / grid.max()


def fog(x, key, depth, decay):
    size = len(x)
    cloud = plasma(key, 2 ** math.ceil(math.log2(size)), decay)[:size, :size, None]
    return (x + depth * cloud) * x.max() / (x.max() + depth)


def snow(x, key, mean, deviation, zoom, threshold, radius, sigma, kept):
    noise, fall = jax.random.split(key)
    layer = clipped_zoom((mean + deviation * normal(noise, x.shape[:2]))[..., None], zoom)
    layer[layer < threshold] = 0
    layer = motion(levels(layer) / 255, radius, sigma, -90 + 45 * float(uniform(fall, ())))
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5)
    return x + layer + np.rot90(layer, 2)


def frost(x, key, share, frost_share, pictures):
    size = len(x)
    which, down, right = jax.random.split(key, 3)
    picture = pictures[int(jax.random.randint(which, (), 0, len(pictures)))]
    top = int(jax.random.randint(down, (), 0, picture.shape[0] - size))
    left = int(jax.random.randint(right, (), 0, picture.shape[1] - size))
    return share * x + frost_share * picture[top : top + size, left : left + size] / 255


def canny(image):
    """Canny's edges: connected ridges of the slope, at least one of them strong."""
    down, right = (ndimage.sobel(image.astype(int), axis, mode="nearest") for axis in (0, 1))
    strength = np.abs(down) + np.abs(right)
    around = np.pad(strength, 1)
    ridge = np.zeros(image.shape, bool)
    for y, x in np.argwhere(strength > 50):
        angle = math.degrees(math.atan2(abs(down[y, x]), abs(right[y, x])))
        sign = -1 if down[y, x] * right[y, x] < 0 else 1
        p, q = (0, 1) if angle < 22.5 else (1, 0) if angle > 67.5 else (1, sign)
        before, after = around[1 + y - p, 1 + x - q], around[1 + y + p, 1 + x + q]
        diagonal = p and q
        ridge[y, x] = strength[y, x] > before and (
            strength[y, x] > after if diagonal else strength[y, x] >= after
        )
    labels = np.zeros(ridge.shape, np.int32)
    ndimage.label(ridge, np.ones((3, 3)), output=labels)
    return ridge & np.isin(labels, np.unique(labels[ridge & (strength > 150)]))


def ways(marked):
    """Distances from the marked cells: Dijkstra over steps of 1, 1.4 and 2.1969."""
    steps = [(y, x, 1.0) for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    steps += [(y, x, 1.4) for y in (-1, 1) for x in (-1, 1)]
    steps += [(y, x, 2.1969) for a in (-1, 1) for b in (-2, 2) for y, x in ((a, b), (b, a))]
    way = np.where(marked, 0.0, np.inf)
    heap = [(0.0, *cell) for cell in np.argwhere(marked)]
    while heap:
        length, y, x = heapq.heappop(heap)
        if length > way[y, x]:
            continue
        for p, q, extra in steps:
            cell = (y + p, x + q)
            if min(cell) >= 0 and max(cell) < len(way) and length + extra < way[cell]:
                way[cell] = length + extra
                heapq.heappush(heap, (length + extra, *cell))
    return way


def relief(liquid):
    near = np.minimum(ways(canny(liquid)), 20)
    near = (ndimage.uniform_filter(near, 3, mode="mirror") + 1e-4).astype(np.uint8)
    count = np.bincount(near.ravel(), minlength=256)
    lowest = int(near.min())
    table = np.round((np.cumsum(count) - count[lowest]) * 255 / (near.size - count[lowest]))
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    light = np.clip(ndimage.correlate(table[near], emboss, mode="mirror"), 0, 255)
    return np.round(ndimage.correlate(light, np.ones((3, 3)), mode="mirror") / 9)


def spatter(x, key, mean, deviation, sigma, threshold, strength, mud):
    liquid = gaussian(mean + deviation * normal(key, x.shape[:2]), sigma=sigma)
    liquid[liquid < threshold] = 0
    if mud:
        cover = gaussian((liquid > threshold).astype(float), sigma=strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return x * (1 - cover) + cover * np.array([63, 42, 20]) / 255
    light = levels(liquid) * relief(levels(liquid))
    return x + (light / light.max() * strength)[..., None] * np.array([175, 238, 238]) / 255


def brightness(x, key, c):
    hsv = rgb2hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
    return hsv2rgb(hsv)


def saturate(x, key, factor, shift):
    hsv = rgb2hsv(x)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + shift, 0, 1)
    return hsv2rgb(hsv)


def contrast(x, key, c):
    return np.stack([(x[..., k] - x[..., k].mean()) * c + x[..., k].mean() for k in range(3)], -1)


def elastic_transform(x, key, strength, sigma, corner, border="mirror"):
    affine, shift = jax.random.split(key)
    size = len(x)
    middle, third = size // 2, size // 3
    old = np.array([[middle + third] * 2, [middle + third, middle - third], [middle - third] * 2], float)
    new = old + corner * uniform(affine, (3, 2))
    back = np.linalg.solve(np.c_[new, np.ones(3)], old)  # (x, y, 1) of the new image -> (x, y) of the old
    row, column = np.mgrid[:size, :size].astype(float)
    at = np.stack([column, row, np.ones_like(row)], -1) @ back

    def taken(image, y, z, mode):
        return np.stack(
            [ndimage.map_coordinates(image[..., k], [y, z], order=1, mode=mode) for k in range(3)], -1
        )

    turned = taken(x, at[..., 1], at[..., 0], border)
    noises = uniform(shift, (2, size, size))
    dx, dy = (gaussian(noise, sigma, mode="reflect", truncate=3) * strength for noise in noises)
    return taken(turned, row + dy, column + dx, "reflect")


def pixelate(x, key, c, back=Image.Resampling.BOX):
    image = Image.fromarray(np.round(x * 255).astype(np.uint8))
    size, small = image.width, int(image.width * c)
    return np.asarray(image.resize((small, small), Image.Resampling.BOX).resize((size, size), back)) / 255


def jpeg_compression(x, key, c):
    file = io.BytesIO()
    Image.fromarray(np.round(x * 255).astype(np.uint8)).save(file, "JPEG", quality=c)
    return np.asarray(Image.open(file)) / 255


def iso_noise(x, key, photons, deviation):
    shot, read = jax.random.split(key)
    return shot_noise(x, shot, photons) + deviation * normal(read, x.shape)


def low_light(x, key, stops, photons, deviation):
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    sensed = np.clip(iso_noise(light / 2**stops, key, photons, deviation), 0, 1)
    return np.where(sensed <= 0.0031308, 12.92 * sensed, 1.055 * sensed ** (1 / 2.4) - 0.055)


def color_quant(x, key, bits):
    return np.asarray(ImageOps.posterize(Image.fromarray(np.round(x * 255).astype(np.uint8)), bits)) / 255
