"""The forms of layers, from `clipjax.models.modules.forms.FORMS`, and one sentence for each."""

from __future__ import annotations

from collections.abc import Mapping

from clipjax.models.modules.forms import FORMS, When
from clipjax.models.version import forward_version
from docs.generate.markdown import code, table

PLATFORMS = {"cpu": "a CPU", "gpu": "a GPU", "tpu": "a TPU"}
TRAINING = {True: "in training", False: "not in training"}

# Layer of FORMS -> what it is, and what each form computes.
MEANINGS: dict[str, tuple[str, dict[str, str]]] = {
    "linear": (
        "products with weights",
        {
            "float32_product": "The product's result is float32, rounded afterwards.",
            "gradient_by_rows": "The weights' gradient is one product of rows; no array is transposed.",
            "plain": "A product with JAX's own gradient.",
        },
    ),
    "norm": (
        "LayerNorm",
        {
            "one_read": "Reads the input once: the variance is the mean square minus the squared mean.",
            "two_reads": "Computes the mean first, then the variance around it.",
        },
    ),
    "normed_products": (
        "products that read a LayerNorm in a block of a ViT",
        {
            "folded": "The weights have the norm's params; the result is divided by the deviation.",
            "apart": "They read what the norm returns.",
        },
    ),
    "gelu": (
        "GELU",
        {
            "tanh": "Computes GELU by a polynomial in tanh, within 3e-5.",
            "erf": "Computes GELU by erf, as PyTorch does.",
        },
    ),
    "mlp": (
        "the two products of an MLP",
        {
            "products_apart": "The compiler may not fuse the two products.",
            "plain": "The compiler decides what it fuses.",
        },
    ),
    "attention": (
        "attention",
        {
            "fused": "cuDNN's kernel, which writes no scores.",
            "recomputed": "Divides the softmax's weights; the backward pass computes them again.",
            "divided_scores": "Divides the softmax's weights before their product with the values.",
            "few_heads": "Computes long sequences a few heads at a time, whose scores stay in the cache.",
            "divided_result": "Divides the product with the values by the softmax's sums.",
        },
    ),
    "distance_bias": (
        "a bias for each distance of two patches",
        {
            "products": "Picks the biases by products with zeros and ones.",
            "rows": "Reads the biases row by row.",
        },
    ),
    "windows": (
        "Swin's windows",
        {
            "by_place": "Takes all images' windows at one place together, several heads in a product.",
            "by_image": "Takes the windows image by image.",
        },
    ),
    "lookup": (
        "rows of a table of tokens",
        {
            "product": "Picks the rows by a product with zeros and ones: the same numbers.",
            "rows": "Reads the rows.",
        },
    ),
    "depthwise": (
        "depthwise convolutions",
        {
            "frequencies": "Multiplies Fourier transforms: 2 to 3 times the error of rounding once.",
            "gradient_by_pixels": "Adds shifted maps; the kernel's gradient goes pixel by pixel.",
            "shifted": "Adds shifted maps.",
            "general": "XLA's convolution.",
        },
    ),
    "grouped": (
        "grouped convolutions",
        {
            "merged": "Computes each group alone, small groups together with zeros between them.",
            "general": "XLA's convolution.",
        },
    ),
    "convolution": (
        "other convolutions",
        {
            "plain_gradients": "XLA's convolution, whose gradients are convolutions in the plain layout.",
            "general": "XLA's convolution.",
        },
    ),
    "pixelwise": (
        "1x1 convolutions and patches",
        {
            "gradient_by_rows": "The kernel's gradient is one product of rows.",
            "general": "A product, or XLA's convolution.",
        },
    ),
    "batch_norm": (
        "BatchNorm by the batch's statistics",
        {
            "input_kept": "Keeps only the input for the backward pass.",
            "plain": "Keeps three maps for the backward pass.",
        },
    ),
    "average_pool": (
        "average pools",
        {
            "windows": "Sums windows in float32.",
            "reshaped": "Takes means over axes of a reshaped map.",
        },
    ),
    "max_pool": (
        "maximum pools",
        {
            "shifted": "Takes the maximum of shifted maps; pixels that tie share the gradient.",
            "windows": "XLA's pool; the first pixel that ties gets the gradient.",
        },
    ),
    "blocks": (
        "blocks in sequence",
        {
            "written_out": "Writes blocks with BatchNorm out one by one.",
            "scanned": "Runs the blocks in a loop.",
        },
    ),
    "kept": (
        "what a block keeps for its backward pass",
        {
            "few": "Keeps attention's result, the hidden channels and the means.",
            "products": "Keeps products and convolutions.",
            "nothing": "Keeps nothing.",
        },
    ),
    "batch": (
        "the batch of a tower",
        {
            "chunks": "Runs a few examples at a time, so that they fit the fast memory.",
            "whole": "Runs the batch at once.",
        },
    ),
    "decoder_projections": (
        "a decoder's queries, keys and values",
        {
            "apart": "Computes them before they are split into heads.",
            "plain": "The compiler decides when it splits them.",
        },
    ),
    "few_queries": (
        "a decoder's attention with fewer than 8 queries",
        {
            "repeated": "Repeats the queries until they fill a tile.",
            "plain": "Takes the queries as they are.",
        },
    ),
    "cache": (
        "a decoder's keys and values",
        {
            "joined_heads": "Stores several heads side by side, whose queries have zeros for the others.",
            "heads": "Stores each head by itself.",
        },
    ),
}


def forms_part() -> str:
    """A line for each layer, with its forms the first that fits is taken."""
    rows = ([MEANINGS[layer][0], "<br>".join(_lines(layer, forms))] for layer, forms in FORMS.items())
    return table(["layer", "where, what, and the form's name in the code"], rows)


def _lines(layer: str, forms: Mapping[str, When]) -> list[str]:
    meanings = MEANINGS[layer][1]
    return [f"*{taken(when)}*: {meanings[name]} {code(name)}" for name, when in forms.items()]


def taken(when: When) -> str:
    """Where a form is taken, in words."""
    fast = "`fast`" if when.dtype else ""
    platform = f"on {PLATFORMS[when.platform]}" if when.platform else ""
    training = "" if when.training is None else TRAINING[when.training]
    host = "with AVX512_BF16" if when.float32_products else ""
    where = " ".join(filter(None, (fast, platform, host)))
    return ", ".join(filter(None, (where, training))) or "elsewhere"


def versions_part() -> str:
    """The versions of the forward passes."""
    parity, fast = (forward_version(precision) for precision in ("parity", "fast"))
    return f"The versions are now {code(parity)} of `parity` and {code(fast)} of `fast`.\n"
