"""A loaded model: card, params, preprocessing and the encoders.

    model = clipjax.load_model("vit_b_32-openai")
    x = model.preprocess(pil_image)                 # float32 [H, W, 3]
    z = model.encode_image(x[None])                 # float32 [1, D], unit norm
    t = model.encode_text(["a photo of a cat"])     # float32 [1, D], unit norm
    model.card.logit_scale * z @ t.T                # the logits

`clipjax.wrap` makes a model from your own functions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import PIL.Image

from clipjax.checkpoints.adapter_file import save_adapter
from clipjax.checkpoints.card import Card, Weights
from clipjax.checkpoints.encoder import JAX, Framework, embeds_at_unit_norm
from clipjax.checkpoints.identity.facts import REGISTRY
from clipjax.checkpoints.identity.naming import disowned
from clipjax.checkpoints.native import save_checkpoint
from clipjax.checkpoints.origin import AdapterParts, Location, Origin, in_dtypes_of
from clipjax.checkpoints.tokenizer_files import find_tokenizer_files
from clipjax.checkpoints.vision_language import LanguageSetup, answer_ids, answering, load_language, padded
from clipjax.data.pixels.normalize import normalize_host
from clipjax.data.pixels.preprocess import to_pixels
from clipjax.data.text.tokenizers import Tokenizer, load_tokenizer
from clipjax.errors import UsageError
from clipjax.models.input_checks import layer_indices
from clipjax.models.network import Network
from clipjax.models.precision import Precision, known_precision
from clipjax.models.text_ids import described, token_ids
from clipjax.models.unit_norm import unit_norm
from clipjax.models.unstacked import unstack
from converters.engine import flatten

# Libraries that convert an image to RGB before they resize it; open_clip does after.
_RGB_FIRST = ("timm", "transformers", "pycontrast", "simclr", "prismatic")


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """Params and the card that describes them. Frozen: `with_...` methods return new models.

    Attributes:
        card: `card.weights` is ignored unless passed as `weights`: the files must hold these very params.
        params: nested dict of float32 arrays (a decoder's may be bfloat16). Do not write into it: nothing
            notices.
        carried: tensors of the source file that no forward needs, by its keys.
        base: the card of the model that the adapter was trained on.
        location: where the params (with an adapter: the base's) can be loaded again; None if not in a file.
    """

    card: Card
    params: dict[str, Any]
    origin: Origin = field(default_factory=Origin)
    carried: Mapping[str, np.ndarray] = field(default_factory=dict)
    _: KW_ONLY
    weights: InitVar[Weights | None] = None
    tokenizer_files: tuple[Path, ...] = ()
    adapter: AdapterParts | None = None
    base: Card | None = None
    location: Location | None = None
    framework: Framework = field(default=JAX, init=False)
    outside: None = field(default=None, init=False)  # clipjax decodes its images

    def __post_init__(self, weights: Weights | None) -> None:
        object.__setattr__(self, "params", dict(self.params))
        if self.card.weights is not weights:
            given = self.card.without_weights() if weights is None else self.card
            object.__setattr__(self, "card", dataclasses.replace(given, weights=weights))

    def __repr__(self) -> str:
        return f"Model({self.card.id!r}, {self.card.arch.name}, {self.card.kind})"

    @property
    def network(self) -> Network:
        return Network(self.card.arch)

    def _replace(self, **changes: Any) -> Model:
        files = vars(self).get("_tokenizer_files", self.tokenizer_files)  # those found after loading, too
        own = {"weights": self.card.weights, "tokenizer_files": files}
        return dataclasses.replace(self, **(own | changes))

    def settled(self) -> Model:
        """The model with the tokenizer files found after loading: their digest is in its card."""
        return self.with_tokenizer() if "_tokenizer" in vars(self) else self

    def with_params(self, params: Mapping[str, Any]) -> Model:
        """The card loses the files and so its fingerprint; logit scale and bias follow the params.

        A registered model loses its name, unless its lineage records what it became. An adapter's base
        changes too.
        """
        card = _card_of_new_params(self.settled().card, params)
        base = None if self.base is None else _card_of_new_params(self.base, params)
        origin = dataclasses.replace(self.origin, dtypes=None)  # a cast back would lose bits
        return self._replace(card=card, base=base, params=params, origin=origin, weights=None, location=None)

    def with_card(self, card: Card) -> Model:
        seen = self.settled().card.tokenizer
        if card.tokenizer == self.card.tokenizer != seen and seen is not None:
            card = card.with_tokenizer_files(str(seen.sha256))
        return self._replace(card=card)

    def with_adapter(self, adapter: AdapterParts, card: Card) -> Model:
        """The model with an adapter. `card` is that of both together; the model's own becomes the base's."""
        return self._replace(card=card, adapter=adapter, base=self.card)

    def with_location(self, location: Location | None) -> Model:
        """The model with the arguments that load it again; None: its params are not in a file."""
        return self._replace(location=location)

    def with_tokenizer(self) -> Model:
        """Find the tokenizer's files now and put their digest into the card. Raises as `tokenizer`.

        A vision-language model's were found when it was loaded.
        """
        if self.language is not None:
            return self
        tokenizer, spec = self.tokenizer, self.card.tokenizer
        assert spec is not None
        if spec.sha256 is not None and self.tokenizer_files == self._tokenizer_files:
            return self
        card = self.card if spec.sha256 is not None else self.card.with_tokenizer_files(str(tokenizer.sha256))
        model = self._replace(card=card, tokenizer_files=self._tokenizer_files)
        vars(model)["_tokenizer"] = tokenizer  # parsed already
        return model

    def check_weights(self) -> None:
        """Raises DataError if the weight files changed."""
        if self.card.weights is not None:
            self.card.weights.check()

    def preprocess(self, image: PIL.Image.Image) -> np.ndarray:
        """One image as the reference prepares it: float32 [H, W, 3].

        Raises UsageError for another object, DataError for a mode that PIL cannot convert to RGB.
        """
        if not isinstance(image, PIL.Image.Image):
            raise UsageError(
                f"preprocess takes a PIL image, not a {type(image).__name__}: open a file with PIL.Image.open"
                ", or make one of a uint8 array with PIL.Image.fromarray"
            )
        rgb = "first" if self.card.source.library in _RGB_FIRST else "last"
        pixels = to_pixels(image, self.card.preprocess.recipe(rgb=rgb))
        return normalize_host(pixels, self.card.preprocess.mean, self.card.preprocess.std)

    @property
    def tokenizer(self) -> Tokenizer:
        """List of strings -> int32 [N, context_length], with the text cleaning of the model's training.

        Raises:
            UsageError: no text tower, or an unknown tokenizer.
            DataError: its files are missing, or not the card's.
        """
        spec = self.card.tokenizer
        self._refuse_without_text()
        if spec is None:
            why = self.card.unknown.get("tokenizer", "its card does not name one")
            raise UsageError(
                f"{self.card.id} has no known tokenizer ({why}): name it in the model's card.json or its row "
                "of models.csv, or give token ids"
            )
        return self._tokenizer

    def _refuse_without_text(self) -> None:
        if self.card.kind == "classifier":
            raise UsageError(f"{self.card.id} is a classifier: it has no text tower")
        if self.card.kind == "vision_language":
            raise UsageError(
                f"{self.card.id} is a vision-language model: it has no text tower, ask it with Model.answer"
            )

    @property
    def language(self) -> LanguageSetup | None:
        """The language side of a vision-language model; None for others.

        Raises DataError for tokenizer files that are missing, or not the card's.
        """
        return None if self.card.arch.language is None else self._language

    @functools.cached_property
    def _language(self) -> LanguageSetup:
        return load_language(self.card, self.tokenizer_files)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        assert self.card.tokenizer is not None
        return load_tokenizer(self.card.tokenizer, self._tokenizer_files)

    @functools.cached_property
    def _tokenizer_files(self) -> tuple[Path, ...]:
        if self.tokenizer_files:
            return self.tokenizer_files
        spec, source = self.card.tokenizer, self.card.source
        assert spec is not None
        return find_tokenizer_files(spec, repo=source.repo, revision=source.revision, download=True)

    def _params_for(self, inputs: jax.Array, precision: Precision) -> dict[str, Any]:
        """Params as they are in "fast", whose bits depend on the form, and in a caller's own jit or grad."""
        if precision != "parity" or _is_traced(self.params, inputs):
            return self.params
        return self._apart

    @functools.cached_property
    def _apart(self) -> dict[str, Any]:
        return unstack(self.params)

    def encode_image(self, images: Any, *, precision: Precision = "parity") -> jax.Array:
        """float32 [B, H, W, 3], preprocessed -> float32 [B, D].

        Unit norm for a zero-shot model and a classifier whose card says so, else raw pooled features. A
        vision-language model gives those of its image tower; its decoder reads patches instead.

        Args:
            precision: "parity" (float32, HIGHEST) or "fast" (bfloat16 tower).
        """
        static = {"precision": known_precision(precision), "unit": embeds_at_unit_norm(self.card)}
        encode = _jitted(_encode_image, "vision", self.network, **static)
        images = self._own_size(self._images(images))
        return _run(encode, self._params_for(images, precision), images)

    def _images(self, images: Any) -> jax.Array:
        try:
            images = jnp.asarray(images, jnp.float32)
        except (TypeError, ValueError):
            raise UsageError(
                f"images are a float32 array [B, H, W, 3], not {described(images)}: see Model.preprocess"
            ) from None
        return images

    def _own_size(self, images: jax.Array) -> jax.Array:
        if images.ndim != 4 or images.shape[1:] != self._own_shape:
            shape = ", ".join(map(str, self._own_shape))
            raise UsageError(f"{self.card.id} takes images of shape [B, {shape}], not {list(images.shape)}")
        return images

    @property
    def _own_shape(self) -> tuple[int, int, int]:
        size = self.card.preprocess.image_size
        return size, size, 3

    def encode_dense(
        self, images: Any, *, layers: int | Sequence[int], precision: Precision = "parity"
    ) -> tuple[jax.Array, ...]:
        """float32 [B, H, W, 3], preprocessed -> feature maps of layers of the image tower [B, h, w, C].

        Without class token or final norm (but DenseNet's last map is normalised). Images may have any sides
        that are multiples of the patch; `clipjax.models.dense.center_padding` pads others.

        Args:
            layers: indices of transformer blocks or of a convolutional net's stages; or n for the last n.
        """
        static = {"layers": layer_indices(layers), "precision": known_precision(precision)}
        encode = _jitted(_encode_dense, "vision", self.network, **static)
        return _run(encode, self.params, self._images(images))

    def encode_text(self, texts: Sequence[str] | Any, *, precision: Precision = "parity") -> jax.Array:
        """A list of strings, or token ids int [B, L] -> float32 [B, D], unit norm.

        Raises:
            UsageError: neither strings nor ids, ids outside the vocabulary, or no text tower.
            DataError: strings mixed with other things, or missing tokenizer files.
        """
        if isinstance(texts, str):
            raise UsageError("encode_text takes a list of strings: write [text] for a single one")
        self._refuse_without_text()
        if isinstance(texts, Iterable) and not isinstance(texts, jax.Array):
            texts = list(texts)
            if any(isinstance(text, str) for text in texts):
                texts = self.tokenizer(texts)
        encode = _jitted(_encode_text, "text", self.network, precision=known_precision(precision))
        ids = jnp.asarray(token_ids(texts, self.card.arch))
        return _run(encode, self._params_for(ids, precision), ids)

    def answer(
        self,
        images: Sequence[PIL.Image.Image] | Any,
        questions: str | Sequence[str],
        *,
        steps: int = 128,
        precision: Precision | None = None,
    ) -> list[str]:
        """Answer a question about each image with a vision-language model, greedily.

        Args:
            images: PIL images, or float32 [B, H, W, 3], preprocessed.
            questions: one for all images, or one for each.
            steps: the most ids of an answer.
            precision: "parity" or "fast"; default: that of the decoder's params.

        Raises:
            UsageError: another kind of model, another number of questions, images of another shape, or
                "parity" from bfloat16.
            DataError: no tokenizer, or a prompt and answer longer than the context.
        """
        language = self.language
        if language is None:
            raise UsageError(
                f"{self.card.id} has no language model: it answers no questions; load one that has"
            )
        profile = answering(self.card.id, self.params, precision)
        if isinstance(images, Sequence):
            images = [self.preprocess(x) if isinstance(x, PIL.Image.Image) else np.asarray(x) for x in images]
            images = np.stack(images) if images else np.zeros((0, *self._own_shape), np.float32)
        pixels = self._own_size(self._images(images))
        asked = [questions] * len(pixels) if isinstance(questions, str) else list(questions)
        if len(asked) != len(pixels):
            raise UsageError(
                f"{len(asked)} questions for {len(pixels)} images: give one for all, or one for each"
            )
        if not asked:
            return []
        prompts = padded(language, [language.prompt(question) for question in asked], steps)
        settings = {"steps": steps, "stop": language.stop, "precision": profile}
        rows = (prompts.ids, prompts.image_at, prompts.valid)
        answers = answer_ids(self.network, self.params, pixels, *rows, **settings)
        return [language.tokenizer.decode(ids).strip() for ids in np.asarray(answers.ids)]

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load_model` reads (`clipjax.checkpoints.native`, `adapter_file`).

        Raises DataError if the model's own checkpoint is damaged, or `folder` cannot be written.
        """
        model = self.settled()
        card = model.card.stamped()
        if self.adapter is None:
            return model._save(folder, card)
        base = model._replace(card=model.base or card, adapter=None, base=None)
        save_base = functools.partial(base._save, card=base.card)
        return save_adapter(folder, card, self.adapter, base.card, self.location, save_base)

    def _save(self, folder: str | Path, card: Card) -> Path:
        self.check_weights()
        return save_checkpoint(
            folder,
            self.source_leaves(),
            self.carried,
            card.to_dict(),
            self.origin.layout,
            self.origin.metadata,
            self.tokenizer_files,
            card.label_space,
        )

    def source_leaves(self) -> dict[str, np.ndarray]:
        """Leaves by path, on the host, in the source's dtypes: exact while the values are the source's.

        Raises UsageError if they were rounded when they were loaded.
        """
        return in_dtypes_of(self.origin, flatten(self.params), self.card.id)


def _card_of_new_params(card: Card, params: Mapping[str, Any]) -> Card:
    """The card of a model whose params these are now, in place of those that were loaded."""
    card = card.without_weights()
    if card.facts_origin == REGISTRY and card.lineage is None:
        card = disowned(card)
    if "logit_scale" not in params:
        return card
    scale = math.exp(float(params["logit_scale"]))
    bias = float(params["logit_bias"]) if "logit_bias" in params else None
    return dataclasses.replace(card, logit_scale=scale, logit_bias=bias)


def _run(encode: Callable[[Any, jax.Array], Any], params: Any, inputs: jax.Array) -> Any:
    """Inputs are [B, ...]; for B = 0 returns arrays [0, ...] without running the tower."""
    if len(inputs):
        return encode(params, inputs)
    one = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    return jax.tree.map(lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), jax.eval_shape(encode, params, one))


@functools.lru_cache(maxsize=64)
def _jitted(
    encode: Callable[..., Any],
    tower: Literal["vision", "text"],
    network: Network,
    *,
    precision: Precision,
    **static: Any,
) -> Callable[[Any, jax.Array], Any]:
    """Cached, so that models of one arch share the compiled program.

    Compiler options are for a whole program: left out inside a caller's own jit or grad.
    """
    function = functools.partial(encode, network, precision=precision, **static)
    options = network.compiler_options(tower, precision)
    part, whole = jax.jit(function), jax.jit(function, compiler_options=options)
    return lambda params, inputs: (part if _is_traced(params, inputs) else whole)(params, inputs)


def _is_traced(*values: Any) -> bool:
    """Whether JAX is tracing these values, or anything computed now (constants inside a jit)."""
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
