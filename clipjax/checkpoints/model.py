"""A loaded model: a card and params, and the three things one does with it.

    model = clipjax.load_model("vit_b_32-openai")
    x = model.preprocess(pil_image)                 # float32 [H, W, 3]
    z = model.encode_image(x[None])                 # float32 [1, D], unit norm
    t = model.encode_text(["a photo of a cat"])     # float32 [1, D], unit norm
    model.card.logit_scale * z @ t.T                # the logits

`clipjax.evaluate` takes such a model, or one that `clipjax.wrap` makes of your own functions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jax.core import Tracer

from clipjax.checkpoints.card import Card, Weights, embeds_at_unit_norm
from clipjax.checkpoints.native import Origin, Place, save_model
from clipjax.data.pixels.normalize import normalize_host
from clipjax.data.pixels.preprocess import to_pixels
from clipjax.data.text.tokenizers import Tokenizer, load_tokenizer
from clipjax.errors import UsageError
from clipjax.models.arch import Arch
from clipjax.models.network import Network, Precision, known_precision, layer_indices

if TYPE_CHECKING:
    from clipjax.heads.adapters.base import Adapter


class Model:
    """Params and the card that says what they are.

    Attributes:
        card: the model card.
        network: the pure forward functions of `card.arch`.
        params: nested dict of float32 arrays, placed where the caller put them. Assign a whole new dict to
            change them: the card then forgets the files that the old ones came from, and with them the
            fingerprint under which embeddings are stored. Do not write into the dict, nobody would notice.
        origin: layout and dtypes of the file they came from (see `clipjax.checkpoints.native`).
        carried: tensors of that file that no forward needs, by its keys.
        tokenizer_files: the vocabulary, where it came with the weights and has been found.
        adapter: what builds its heads in place of prompts (CoOp, Tip-Adapter); None for a plain model.
        base: the card of the model that the adapter was trained on.
        place: where `load_model` found these params (an adapter's base); None where they were no file.
    """

    def __init__(
        self,
        card: Card,
        params: Mapping[str, Any],
        origin: Origin | None = None,
        carried: Mapping[str, np.ndarray] | None = None,
        *,
        weights: Weights | None = None,
        tokenizer_files: tuple[Path, ...] = (),
    ) -> None:
        """`weights` are the files that hold these very params; those of a card alone are not believed."""
        self.card = card.without_weights() if weights is None and card.weights is not None else card
        if weights is not None:
            self.card = dataclasses.replace(card, weights=weights)
        self.network = Network(card.arch)
        self._params = dict(params)
        self.origin = origin or Origin()
        self.carried = dict(carried or {})
        self.tokenizer_files = tokenizer_files
        self.adapter: Adapter | None = None
        self.base: Card | None = None
        self.place: Place | None = None

    def __repr__(self) -> str:
        return f"Model({self.card.id!r}, {self.card.arch.name}, {self.card.kind})"

    @property
    def params(self) -> dict[str, Any]:
        return self._params

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        self._params = dict(params)
        self.place = None
        self.card = self.card.without_weights()
        if "logit_scale" in params:  # what heads read is the card's
            scale = math.exp(float(params["logit_scale"]))
            bias = float(params["logit_bias"]) if "logit_bias" in params else None
            self.card = dataclasses.replace(self.card, logit_scale=scale, logit_bias=bias)
        self.origin = dataclasses.replace(self.origin, dtypes=None)  # a cast back would lose bits

    def preprocess(self, image: PIL.Image.Image) -> np.ndarray:
        """One image as the reference makes it, the library's own order of operations included.

        open_clip's transform turns an image into RGB last; before timm's and in transformers' it is RGB.

        Returns: float32 [H, W, 3].

        Raises:
            UsageError: not a PIL image.
            DataError: PIL cannot turn its mode into RGB.
        """
        if not isinstance(image, PIL.Image.Image):
            raise UsageError(
                f"preprocess takes a PIL image, not a {type(image).__name__}: open a file with PIL.Image.open"
                ", or make one of a uint8 array with PIL.Image.fromarray"
            )
        rgb = "first" if self.card.source.library in ("timm", "transformers") else "last"
        pixels = to_pixels(image, self.card.preprocess.recipe(rgb=rgb))
        return normalize_host(pixels, self.card.preprocess.mean, self.card.preprocess.std)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """list of strings -> int32 [N, context_length], with the text cleaning of the model's training.

        Raises:
            UsageError: the model has no text tower, or one whose tokenizer is not known.
            DataError: the tokenizer's files come with the weights and cannot be found, or are not the card's.
        """
        spec = self.card.tokenizer
        if self.card.arch.text is None:
            raise UsageError(f"{self.card.id} is a classifier: it has no text tower")
        if spec is None:
            why = self.card.unknown.get("tokenizer", "its card does not name one")
            raise UsageError(f"{self.card.id} has no known tokenizer ({why}): give token ids")
        if not self.tokenizer_files:
            from clipjax.checkpoints.tokenizer_files import find_tokenizer_files

            source = self.card.source
            self.tokenizer_files = find_tokenizer_files(
                spec, repo=source.repo, revision=source.revision, download=True
            )
        tokenizer = load_tokenizer(spec, self.tokenizer_files)
        if spec.sha256 is None:
            self.card = self.card.with_tokenizer_files(str(tokenizer.sha256))
        return tokenizer

    def encode_image(self, images: Any, *, precision: Precision = "parity") -> jax.Array:
        """Embed a batch of preprocessed images.

        Args:
            images: float32 [B, H, W, 3], as `preprocess` returns them.
            precision: "parity" (float32, HIGHEST) or "fast" (bfloat16 tower).

        Returns: float32 [B, D]; unit norm for a zero-shot model, and for a classifier whose card says so;
            raw pooled features for any other.
        """
        static = {"precision": known_precision(precision), "unit": embeds_at_unit_norm(self.card)}
        encode = _jitted(_encode_image, "vision", self.network, **static)
        return _run(encode, self.params, self._images(images))

    def _images(self, images: Any) -> jax.Array:
        try:
            images = jnp.asarray(images, jnp.float32)
        except (TypeError, ValueError):
            raise UsageError(
                f"images are a float32 array [B, H, W, 3], not {_kind(images)}: see Model.preprocess"
            ) from None
        size = self.card.preprocess.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise UsageError(
                f"{self.card.id} takes images of shape [B, {size}, {size}, 3], not {list(images.shape)}"
            )
        return images

    def encode_dense(
        self, images: Any, *, layers: int | Sequence[int], precision: Precision = "parity"
    ) -> tuple[jax.Array, ...]:
        """What layers of the image tower return, as maps; see `clipjax.models.network.Network.encode_dense`.

        Args:
            images, precision: as for `encode_image`.
            layers: indices of transformer blocks or of a convolutional net's stages; or n for the last n.

        Returns: for each layer float32 [B, h, w, C], without final norm or class token.
        """
        static = {"layers": layer_indices(layers), "precision": known_precision(precision)}
        encode = _jitted(_encode_dense, "vision", self.network, **static)
        return _run(encode, self.params, self._images(images))

    def encode_text(self, texts: Sequence[str] | Any, *, precision: Precision = "parity") -> jax.Array:
        """Embed texts.

        Args:
            texts: a list of strings, or token ids int [B, L].

        Returns: float32 [B, D], unit norm.

        Raises:
            UsageError: neither strings nor ids, ids that the text tower does not have, or no text tower.
            DataError: some are strings and some are not, or the tokenizer's files are missing.
        """
        if isinstance(texts, str):
            raise UsageError("encode_text takes a list of strings: write [text] for a single one")
        if self.card.arch.text is None:
            raise UsageError(f"{self.card.id} is a classifier: it has no text tower")
        if isinstance(texts, Iterable) and not isinstance(texts, jax.Array):
            texts = list(texts)
            if any(isinstance(text, str) for text in texts):
                texts = self.tokenizer(texts)
        encode = _jitted(_encode_text, "text", self.network, precision=known_precision(precision))
        return _run(encode, self.params, jnp.asarray(token_ids(texts, self.card.arch)))

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load_model` reads back: model.safetensors and card.json, a vocabulary that
        came with the weights, the classes of a classifier that have no name in configs/labels.

        Of a model with an adapter: adapter.safetensors and a card.json that names the base, whose weights
        stay where they are (`clipjax.checkpoints.adapter_file`).
        """
        self.card = self.card.stamped()
        if self.adapter is None:
            return save_model(self, folder)
        from clipjax.checkpoints.adapter_file import save_adapted

        return save_adapted(self, folder)


def token_ids(ids: Any, arch: Arch) -> Any:
    """Token ids that an architecture's text tower has, int32 [B, L].

    On a device a number outside its table of embeddings would silently become the nearest one inside. Inside
    `jax.jit` numbers cannot be looked at: traced ids are returned as they are.

    Raises:
        UsageError: ragged, not integers, or an id outside the vocabulary, with its row.
    """
    if isinstance(ids, Tracer):
        return ids
    assert arch.text is not None
    try:
        array = np.asarray(ids)
    except ValueError:
        raise UsageError(
            "token ids are ragged: every row must have the same length, padding included"
        ) from None
    if array.size == 0 and array.ndim:  # no texts: a list of nothing has no dtype
        return np.zeros((0, arch.text.context_length), np.int32)
    if array.dtype.kind not in "iu" or array.ndim == 0:
        raise UsageError(f"texts are a list of strings or token ids, integers [B, L], not {_kind(ids)}")
    wrong = np.argwhere((array < 0) | (array >= arch.text.vocab_size))
    if len(wrong):
        place = tuple(wrong[0])
        raise UsageError(
            f"row {place[0]} of the token ids holds {array[place]}; {arch.name} has the ids 0 to "
            f"{arch.text.vocab_size - 1}: use the model's own tokenizer"
        )
    return array.astype(np.int32)


def _kind(values: Any) -> str:
    """What a caller has given, in few words."""
    if isinstance(values, (list, tuple)) and values:
        return f"a {type(values).__name__} of {type(values[0]).__name__}"
    return f"{type(values).__name__} {getattr(values, 'dtype', '')}".strip()


def _run(encode: Callable[[Any, jax.Array], Any], params: Any, inputs: jax.Array) -> Any:
    """What `encode` makes of inputs [B, ...]; of none of them arrays [0, ...], which no tower is run for."""
    if len(inputs):
        return encode(params, inputs)
    one = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    return jax.tree.map(lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), jax.eval_shape(encode, params, one))


@functools.lru_cache(maxsize=64)
def _jitted(
    encode: Callable[..., Any], tower: Literal["vision", "text"], network: Network, **static: Any
) -> Callable[[Any, jax.Array], Any]:
    """(params, inputs) -> what `encode` makes of them; kept: no model of the arch compiles it again.

    Compiler options are those of a whole program: inside a caller's own jit or grad there are none to give.
    """
    function = functools.partial(encode, network, **static)
    part, whole = jax.jit(function), jax.jit(function, compiler_options=network.compiler_options(tower))
    return lambda params, inputs: (part if _is_traced(params, inputs) else whole)(params, inputs)


def _is_traced(*values: Any) -> bool:
    """Whether JAX is tracing these values, or whatever is computed now (constants inside a jit)."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in [*jax.tree.leaves(values), jnp.zeros(())])


def _encode_image(
    network: Network, params: Any, images: jax.Array, precision: Precision, unit: bool
) -> jax.Array:
    features = network.encode_image(params, images, precision=precision)
    return unit_norm(features) if unit else features


def _encode_dense(
    network: Network, params: Any, images: jax.Array, layers: int | tuple[int, ...], precision: Precision
) -> tuple[jax.Array, ...]:
    return network.encode_dense(params, images, layers=layers, precision=precision)


def _encode_text(network: Network, params: Any, ids: jax.Array, precision: Precision) -> jax.Array:
    return unit_norm(network.encode_text(params, ids, precision=precision))


def unit_norm(features: jax.Array) -> jax.Array:
    """Rows divided by their L2 norm, [B, D]; a zero row stays zero (torch's normalize, eps 1e-12)."""
    norm = jnp.sqrt(jnp.sum(features * features, axis=-1, keepdims=True))
    return features / jnp.maximum(norm, 1e-12)
