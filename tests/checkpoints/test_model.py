"""What a `Model` takes and refuses: token ids, images, layers and precisions, with one sentence each."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from _drawn import drawn
from open_clip.transform import image_transform
from timm.data.transforms_factory import create_transform

from clipjax.checkpoints.card import card_from_dict
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.embeddings.forward import text_encoder
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch
from clipjax.models.network import Network
from clipjax.models.unit_norm import unit_norm
from clipjax.models.unstacked import unstack
from clipjax.verification import verify

IDS = 49408


@pytest.fixture(scope="module")
def model() -> Model:
    """One small block a tower, with all of CLIP's vocabulary."""
    record = arch_to_dict(load_arch("ViT-B-32"))
    size = {"width": 32, "heads": 2, "layers": 2, "mlp_width": 64, "embed_dim": 16}
    record["vision"] |= size | {"image_size": 32, "patch_size": 16}
    record["text"] |= size
    base = model_card("vit_b_32-openai")
    pixels = dataclasses.replace(base.preprocess, image_size=32, resize_size=32)
    card = dataclasses.replace(
        base, arch=arch_from_dict({**record, "name": "small"}, "here"), preprocess=pixels
    )
    return Model(card, drawn(Network(card.arch).abstract_params()))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            [[49406, 320, 49407], [49406, 99999, 49407]],
            r"row 1 of the token ids holds 99999; small has the ids 0",
        ),
        ([[49406, IDS, 49407]], rf"row 0 .* holds {IDS}; small has the ids 0 to 49407"),
        ([[-1, 49406, 49407]], "row 0 .* holds -1"),
        (np.array([[2**32 + 5, 49406, 49407]]), "row 0 .* holds 4294967301"),
        ([[49406, 1.7, 49407]], "integers .* not a list of list"),
        (np.ones((1, 77), np.float32), "integers"),
        (np.ones((1, 77), bool), "integers"),
        ([[49406, 49407], [49406, 320, 49407]], "ragged"),
        ([["a", "b"]], "list of strings or token ids"),
        ([None], "not a list of NoneType"),
        ([b"a"], "not a list of bytes"),
        (None, "list of strings or token ids"),
        (5, "list of strings or token ids"),
    ],
)
def test_what_are_no_texts(model: Model, ids: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.encode_text(ids)


def test_strings_with_something_else_between(model: Model) -> None:
    for texts in ([3, "a"], ["a", 3]):
        with pytest.raises(DataError, match=r"text \d is 3 \(int\), not a string"):
            model.encode_text(texts)


def test_texts_however_they_are_held(model: Model) -> None:
    texts = ["a photo of a cat", "a dog"]
    wanted = np.asarray(model.encode_text(texts))
    ids = model.tokenizer(texts)
    for given in (np.array(texts), iter(texts), ids, ids.tolist(), ids.astype(np.uint16), jnp.asarray(ids)):
        np.testing.assert_array_equal(model.encode_text(given), wanted)


def test_inside_a_callers_own_program(model: Model) -> None:
    """Traced inputs, constants, gradients, a batch of batches: the compiler's options are the caller's."""
    ids = np.asarray(model.tokenizer(["a photo of a cat", "a dog"]))
    wanted = np.asarray(model.encode_text(ids))
    np.testing.assert_allclose(jax.jit(model.encode_text)(ids), wanted, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda: model.encode_text(ids))(), wanted, atol=1e-6)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    features = np.asarray(model.encode_image(images))
    gradient = np.asarray(jax.grad(lambda x: jnp.sum(model.encode_image(x) * features[::-1]))(images))
    step = 1e-2 * gradient / np.linalg.norm(gradient)
    after, before = (np.asarray(model.encode_image(images + sign * step)) for sign in (1, -1))
    change = np.sum((after - before) * features[::-1])
    np.testing.assert_allclose(change, 2e-2 * np.linalg.norm(gradient), rtol=0.02)
    np.testing.assert_allclose(jax.vmap(model.encode_image)(images[None])[0], features, atol=1e-6)


def test_blocks_apart_are_views_and_give_the_same_bits(model: Model) -> None:
    params = jax.device_put(model.params)
    views = unstack(params)
    stack = params["vision"]["blocks"]["mlp"]["c_fc"]["kernel"]
    blocks = views["vision"]["blocks"]["mlp"]["c_fc"]["kernel"].blocks
    begins = [block.unsafe_buffer_pointer() - stack.unsafe_buffer_pointer() for block in blocks]
    assert begins == [0, stack.nbytes // 2]
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    inputs = {"image": images, "text": model.tokenizer(["a photo of a cat", "a dog"])}
    for tower, encode in (("image", model.network.encode_image), ("text", model.network.encode_text)):
        run = jax.jit(partial(encode, precision="parity", capture=True))
        wanted, found = (run(each, inputs[tower]) for each in (params, views))
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    fast = jax.jit(partial(model.network.encode_image, precision="fast"))(params, images)
    np.testing.assert_allclose(model.encode_image(images, precision="fast"), unit_norm(fast), atol=1e-6)


@pytest.mark.parametrize(("block", "width"), [("attn", 5), ("mlp", 16)])
def test_blocks_that_cannot_be_views_or_have_no_attention_stay_stacked(block: str, width: int) -> None:
    params = {"vision": {"blocks": {block: {"bias": jnp.ones((2, width))}}}, "logit_scale": jnp.ones(())}
    jax.tree.map(np.testing.assert_array_equal, unstack(params), params)


def test_ids_of_a_golden_and_of_the_text_encoder_are_checked(model: Model) -> None:
    inputs = verify.random_inputs(model.card.arch, 2, 0)
    inputs["ids"][1, 3] = IDS
    report = verify.compare(model, "golden", verify.Golden(inputs, {}, {}))
    assert not report.passed
    assert f"row 1 of the token ids holds {IDS}" in str(report.problem)
    with pytest.raises(UsageError, match="row 1 of the token ids"):
        text_encoder(model)(inputs["ids"])


def test_nothing_gives_nothing(model: Model) -> None:
    images = np.zeros((0, 32, 32, 3), np.float32)
    assert model.encode_image(images).shape == (0, 16)
    assert [x.shape for x in model.encode_dense(images, layers=2)] == [(0, 2, 2, 32)] * 2
    for texts in ([], np.zeros((0, 77), np.int32), jnp.zeros((0, 77), jnp.int32)):
        found = model.encode_text(texts)
        assert (found.shape, found.dtype) == ((0, 16), jnp.float32)


@pytest.mark.parametrize("images", [None, "a.png", [[1.0], [1.0, 2.0]], PIL.Image.Image])
def test_what_are_no_images(model: Model, images: Any) -> None:
    with pytest.raises(UsageError, match=r"images are a float32 array \[B, H, W, 3\], not"):
        model.encode_image(images)


def test_unknown_precision(model: Model) -> None:
    images = np.zeros((1, 32, 32, 3), np.float32)
    for encode in (
        lambda: model.encode_image(images, precision="fp16"),  # type: ignore[arg-type]
        lambda: model.encode_dense(images, layers=1, precision="fp16"),  # type: ignore[arg-type]
        lambda: model.encode_text(["a"], precision="fp16"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match="unknown precision 'fp16'; known: fast, parity"):
            encode()


def test_layers_of_numpy_and_none(model: Model) -> None:
    images = np.ones((1, 32, 32, 3), np.float32)
    wanted = model.encode_dense(images, layers=1)
    for layers in (np.int64(1), np.array([1]), [np.int32(-1)]):
        np.testing.assert_array_equal(model.encode_dense(images, layers=layers)[0], wanted[0])  # type: ignore[arg-type]
    for layers in ("0", 1.5, None, [[0]], [0.0]):
        with pytest.raises(UsageError, match="layers is the number of last layers or a list of indices"):
            model.encode_dense(images, layers=layers)  # type: ignore[arg-type]


@pytest.mark.parametrize("image", ["a.png", np.zeros((8, 8, 3), np.uint8)])
def test_preprocess_takes_pil_images(model: Model, image: Any) -> None:
    with pytest.raises(UsageError, match=rf"not a {type(image).__name__}: open a file with PIL\.Image\.open"):
        model.preprocess(image)


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "RGB", "1"])
@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_pixels_in_the_librarys_order(model: Model, library: str, mode: str) -> None:
    """timm's transform is given RGB images; open_clip's own makes them RGB last."""
    rng = np.random.default_rng(0)
    image = (
        PIL.Image.fromarray(rng.integers(0, 256, (91, 67, 4), np.uint8), "RGBA").convert("RGB").convert(mode)
    )
    mean, std = model.card.preprocess.mean, model.card.preprocess.std
    source = dataclasses.replace(model.card.source, library=library)
    ours = Model(dataclasses.replace(model.card, source=source), model.params).preprocess(image)
    if library == "timm":
        transform: Any = create_transform(32, mean=mean, std=std, interpolation="bicubic", crop_pct=1.0)
        theirs = transform(image.convert("RGB"))
    else:
        transform = image_transform(32, is_train=False, mean=mean, std=std)
        theirs = transform(image)
    np.testing.assert_array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_the_crop_of_a_card_is_stated(model: Model) -> None:
    record = json.loads(json.dumps(model.card.to_dict()))
    assert record["preprocess"].pop("crop") == "round"
    with pytest.raises(DataError, match=r"^here: preprocess: the key 'crop' is missing$"):
        card_from_dict(record, "here")
    record["preprocess"]["crop"] = "floor"
    assert card_from_dict(record, "here").preprocess.recipe().crop == "floor"
