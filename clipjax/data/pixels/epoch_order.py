"""The order of a short epoch as grain shuffles it, all places at once.

grain shuffles place by place: it walks along a permutation of 65,536 numbers until one is a row. Of few
images that is nearly the whole permutation, 32 ms. Made at once it takes 3.

Source: grain 0.2.18, `index_shuffle.cc`: the cipher Simon (Beaulieu et al. 2013, eprint 2013/404) on two
words of 8 bits in four rounds, with the keys of C++'s `std::seed_seq`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8

_ROUNDS = 4


def epoch_order(images: int, seed: int, epoch: int) -> Int[np.ndarray, " {images}"]:
    """The rows of an epoch of `grain.MapDataset.range(images).seed(seed).shuffle()`.

    Args:
        images: at most 65,536.
    """
    # grain's second number is how many data sets after `seed` the shuffle is.
    first = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
    after = _permutation(first + epoch)
    while (after[:images] >= images).any():
        after = np.where(after < images, after, after[after])  # twice as far
    return after[:images]


def _permutation(seed: int) -> Int[np.ndarray, " 65536"]:
    """The number after each number."""
    numbers = np.arange(2**16)
    left, right = ((numbers >> shift).astype(np.uint8) for shift in (8, 0))
    for key in _keys(seed):
        left, right = right, left ^ _mixed(right) ^ np.uint8(key & 255)
    return left.astype(np.int64) << 8 | right


def _mixed(x: UInt8[np.ndarray, " 65536"]) -> UInt8[np.ndarray, " 65536"]:
    """Simon's function: x rotated by 1, and rotated by 8, which is x itself; xor x rotated by 2."""
    return ((x << 1 | x >> 7) & x) ^ (x << 2 | x >> 6)


def _keys(seed: int) -> list[int]:
    """A key of 32 bits a round, as `std::seed_seq{seed}.generate` makes them (C++17, rand.util.seedseq)."""
    keys = [0x8B8B8B8B] * _ROUNDS
    for k in range(2 * _ROUNDS):
        here, near, far, last = (i % _ROUNDS for i in (k, k + 1, k + 2, k - 1))
        if k < _ROUNDS:
            x = keys[here] ^ keys[near] ^ keys[last]
            one = 1664525 * (x ^ x >> 27) % 2**32
            two = (one + here + {0: 1, 1: seed}.get(k, 0)) % 2**32
            keys[near], keys[far] = (keys[near] + one) % 2**32, (keys[far] + two) % 2**32
        else:
            x = (keys[here] + keys[near] + keys[last]) % 2**32
            one = 1566083941 * (x ^ x >> 27) % 2**32
            two = (one - here) % 2**32
            keys[near], keys[far] = keys[near] ^ one, keys[far] ^ two
        keys[here] = two
    return keys
