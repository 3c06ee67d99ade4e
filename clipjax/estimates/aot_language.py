"""Programs of vision-language models compiled for TPU slices, as `clipjax.estimates.aot` does with towers.

"prefill" reads an image and a question, "decode" one more id of the answer. The decoder is cut over
groups of four chips, each of which takes rows of its own; the image tower is on every chip. All is compiled
from shapes: no weights are made.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.identity.registry import model_card
from clipjax.data.pixels.normalize import normalize
from clipjax.devices.sharding import DATA, abstract_on, batch_sharding, replicated
from clipjax.estimates import aot
from clipjax.estimates.aot import Chip, Executable, TowerRow
from clipjax.estimates.flops import product_flops
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import decode_step, prefill
from clipjax.models.language.sharding import MODEL, cache_sharding, decoder_sharding
from clipjax.models.language.vision_language import assemble, image_positions, image_tokens
from clipjax.models.network import Network
from clipjax.models.precision import DTYPE, Precision, stated_platform

PARTS = 4  # chips that share a decoder: of 7B in bfloat16 each holds 3.4 GB
QUESTION = 128  # ids: the bucket of a question with four options
ANSWER = 128  # ids, as many as the reference lets a model answer
LARGEST = 256  # rows of a group

PROGRAMS = ("prefill", "decode")


@dataclass(frozen=True)
class SliceProgram:
    """One step of a slice.

    Attributes:
        arguments: (mesh, rows of the slice) -> abstract arguments with their shardings.
        results: mesh -> shardings of what it returns.
        donated: indices of the arguments whose memory the results take.
        loops: the program is a loop's body, so the compiler may lay out arguments and results as it likes.
    """

    function: Callable[..., Any]
    arguments: Callable[[Mesh, int], tuple[Any, ...]]
    results: Callable[[Mesh], Any]
    donated: tuple[int, ...] = ()
    loops: bool = False

    def lower(self, mesh: Mesh, rows: int) -> jax.stages.Lowered:
        arguments, results = self.arguments(mesh, rows), self.results(mesh)
        options: dict[str, Any] = {"out_shardings": results, "donate_argnums": self.donated}
        if self.loops:
            free = functools.partial(Format, Layout.AUTO)
            options["in_shardings"] = jax.tree.map(lambda leaf: free(leaf.sharding), arguments)
            options["out_shardings"] = jax.tree.map(free, results)
        return jax.jit(self.function, **options).lower(*arguments)


def table_of(
    ids: Sequence[str],
    chips: Sequence[str],
    *,
    parts: Sequence[str] = ("vision", "text", *PROGRAMS),
    precisions: Sequence[Precision] = get_args(Precision),
    start: int = aot.LARGEST,
) -> Iterator[TowerRow]:
    """The rows of models of any kind: towers per chip, and programs per slice. Errors as `aot_table`."""
    towers = [part for part in parts if part not in PROGRAMS]
    yield from aot.aot_table(ids, chips, towers=towers, precisions=precisions, start=start)
    known = aot.load_chips()
    for card, name, precision in programs(ids, parts=parts, precisions=precisions):
        program, plain = (program_of(card, name, precision, platform, PARTS) for platform in ("tpu", None))
        for chip in map(known.__getitem__, chips):
            for topology in chip.answers:
                facts = card.id, name, precision
                yield _row(facts, chip, topology, program, plain, min(start, LARGEST))


def count(ids: Sequence[str], chips: Sequence[str]) -> int:
    """The rows of `table_of`, if the chips are known."""
    known = aot.load_chips()
    slices = sum(len(known[chip].answers) for chip in chips if chip in known)
    return len(aot.programs(ids)) * len(chips) + len(programs(ids)) * slices


def programs(
    ids: Sequence[str],
    *,
    parts: Sequence[str] = PROGRAMS,
    precisions: Sequence[Precision] = get_args(Precision),
) -> list[tuple[Card, str, Precision]]:
    """The programs that `table_of` compiles for the vision-language models among `ids`."""
    cards = [card for card in map(model_card, ids) if card.arch.language is not None]
    return [
        (card, name, precision)
        for card in cards
        for precision in precisions
        for name in PROGRAMS
        if name in parts
    ]


def _row(
    facts: tuple[str, str, Precision],
    chip: Chip,
    topology: str,
    program: SliceProgram,
    plain: SliceProgram,
    start: int,
) -> TowerRow:
    """The largest batch of a program that fits a slice.

    Args:
        facts: the first fields of the row: model, program and precision.
        topology: the slice, such as "v5e:2x4".
        program: in the form for a TPU, which is compiled.
        plain: in the form whose products are the model's own, which are counted.
        start: the first batch tried, rows of a group of chips; each that does not fit is halved.
    """
    mesh = aot.slice_mesh(chip, topology, {DATA: -1, MODEL: PARTS})
    groups = mesh.shape[DATA]
    one = plain.arguments(mesh, groups)
    flops = product_flops(jax.make_jaxpr(plain.function)(*one).jaxpr) / groups
    row = TowerRow(*facts, topology, flops / 1e9, None, start=start)

    def compile_at(rows: int) -> Executable | None:
        return aot.compiled_within(chip, program.lower(mesh, rows * groups), rows)

    try:
        executable = aot.largest(compile_at, start)
    except jax.errors.JaxRuntimeError as error:
        return dataclasses.replace(row, problem=str(error).splitlines()[0])
    problem = None if executable else f"not one row fits {chip.memory_gib} GiB"
    return dataclasses.replace(row, executable=executable, problem=problem)


def program_of(card: Card, name: str, precision: Precision, platform: str | None, parts: int) -> SliceProgram:
    """One of a vision-language model's `PROGRAMS`, in a platform's form; `parts` chips share the decoder."""
    assert card.arch.language is not None
    decoder = Decoder(card.arch.language.decoder, platform, parts)
    return (_prefill if name == "prefill" else _decode)(card, precision, decoder)


def _prefill(card: Card, precision: Precision, decoder: Decoder) -> SliceProgram:
    network = Network(card.arch)
    mean, std, size = card.preprocess.mean, card.preprocess.std, card.arch.vision.image_size

    def read(params: Any, pixels: Any, ids: Any, image_at: Any, valid: Any) -> Any:
        images = normalize(pixels, mean, std)
        tokens = image_tokens(
            network, params, images, precision, stated_platform(decoder.platform, precision)
        )
        embedded = assemble(decoder, params["decoder"], ids, image_at, tokens)
        return prefill(decoder, params["decoder"], embedded, valid, ANSWER, precision=precision)

    def arguments(mesh: Mesh, rows: int) -> tuple[Any, ...]:
        split = batch_sharding(mesh)

        def batch(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=split)

        return (
            _params(card, precision, decoder, mesh),
            batch(jnp.uint8, size, size, 3),
            batch(jnp.int32, QUESTION),
            batch(jnp.int32),
            batch(jnp.bool_, _positions(card)),
        )

    return SliceProgram(
        read, arguments, lambda mesh: (batch_sharding(mesh), cache_sharding(decoder.config, mesh))
    )


def _decode(card: Card, precision: Precision, decoder: Decoder) -> SliceProgram:
    def step(params: Any, ids: Any, cache: Any) -> Any:
        return decode_step(decoder, params, ids, cache, precision=precision)

    def arguments(mesh: Mesh, rows: int) -> tuple[Any, ...]:
        embedded = jax.ShapeDtypeStruct((rows, _positions(card), decoder.config.width), DTYPE[precision])
        valid = jax.ShapeDtypeStruct(embedded.shape[:2], jnp.bool_)
        params = _params(card, precision, decoder, mesh)["decoder"]
        _, cache = jax.eval_shape(
            lambda *args: prefill(decoder, *args, ANSWER, precision=precision), params, embedded, valid
        )
        cache = jax.tree.map(abstract_on, cache, cache_sharding(decoder.config, mesh))
        return params, jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=batch_sharding(mesh)), cache

    def results(mesh: Mesh) -> Any:
        return batch_sharding(mesh), cache_sharding(decoder.config, mesh)

    return SliceProgram(step, arguments, results, donated=(2,), loops=True)


def _positions(card: Card) -> int:
    return image_positions(card.arch) + QUESTION


def _params(card: Card, precision: Precision, decoder: Decoder, mesh: Mesh) -> Any:
    network = Network(card.arch)
    params = jax.eval_shape(
        functools.partial(network.in_precision, precision=precision), network.abstract_params()
    )
    cut = params.pop("decoder")
    shardings = decoder_sharding(decoder.config, cut, mesh)
    rest = jax.tree.map(lambda leaf: abstract_on(leaf, replicated(mesh)), params)
    return rest | {"decoder": jax.tree.map(abstract_on, cut, shardings)}
