"""Several processes, and their waiting for pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipjax.commands.shared.output import say
from clipjax.errors import counted

if TYPE_CHECKING:
    from clipjax.embeddings.compute import EmbedStats


def join(distributed: bool) -> None:
    """Join the other processes of a distributed run. Call this before JAX is used."""
    if distributed:
        from clipjax.devices.processes import join_processes

        join_processes()


def say_slow(precision: str) -> None:
    """Print on stderr, on a CPU without AVX512_BF16, that the precision "fast" is slow there."""
    import jax

    from clipjax.models.precision import float32_products

    if precision == "fast" and jax.default_backend() == "cpu" and not float32_products(precision):
        say(
            "fast computes in bfloat16, which this CPU emulates: parity is faster here, and as the reference",
            err=True,
        )


def say_waiting(stats: Sequence[EmbedStats]) -> None:
    """The share of the time that devices waited for pixels, if images were embedded."""
    from clipjax.embeddings.compute import share_waiting

    if (waiting := share_waiting(stats)) is None:
        return
    images = sum(each.images for each in stats)
    total = sum(each.decode_seconds + each.compute_seconds for each in stats)
    say(
        f"embedded {counted(images, 'image')} in {total:.1f} s; the devices waited for pixels "
        f"{waiting:.0%} of it{_decoders(stats)}",
        err=True,
    )
    found = dict.fromkeys(
        f"{each.per_device_batch} images per device in a step ({each.batch_choice})"
        for each in stats
        if each.images and each.batch_choice
    )
    for line in found:
        say(line, err=True)


def _decoders(stats: Sequence[EmbedStats]) -> str:
    found = dict.fromkeys(each.decoders for each in stats if each.images and each.decoders)
    return f" (decoded by {', then '.join(found)}: the fastest here)" if found else ""
