"""torch's side of gpu.py, in a process without JAX's GPU: open_clip's models and transformers' decoder.

The "eager" rows also write what clipjax's side compares itself with: weights, features, first losses.
float32 means float32: without TF32, as clipjax's parity. bfloat16 means weights in bfloat16 for a forward
pass and autocast for a training step, as open_clip has them.
"""

from __future__ import annotations

import copy
import functools
import gc
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import common, gpu_cases
from benchmarks.gpu_cases import Request

CHECKED = 4  # images whose features are compared


def answer(request: Request) -> dict[str, Any]:
    import torch

    if request.device == "cuda" and not torch.cuda.is_available():
        raise ImportError(f"torch {torch.__version__} has no cuda device")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # picks the convolutions' algorithms by time, as XLA does
    kind = request.case.kind
    measure = {"tower": tower, "step": step, "files": files, "decode": decode}[kind]
    result = measure(request)
    torch.compiler.reset()
    gc.collect()
    device = request.device
    if device == "cuda":
        torch.cuda.empty_cache()
        device = torch.cuda.get_device_name()
    return {"device": device, "versions": {"torch": torch.__version__}, **result}


def wait(result: Any) -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def dtype_of(request: Request) -> Any:
    import torch

    return getattr(torch, request.precision)


@functools.cache
def reference(arch: str, folder: str, small: bool) -> Any:
    """open_clip's model on the CPU; its weights, and features of the first images, are written first."""
    import torch

    from clipjax.models.arch import arch_to_dict

    case = gpu_cases.Case("", "tower", arch, 0)
    request = Request(case, "float32", "eager", "cpu", folder, small)
    record = gpu_cases.arch_of(request)
    model = common.save_reference(arch, request.weights, sizes=arch_to_dict(record) if small else None)
    images = gpu_cases.images_of(record.vision.image_size, 2 if small else CHECKED)
    with torch.no_grad():
        np.save(request.features, model.encode_image(channels_first(images), normalize=True).numpy())
    return model


def on_device(request: Request, dtype: Any = None) -> Any:
    model = reference(request.case.arch, request.folder, request.small)
    return copy.deepcopy(model).to(request.device, dtype)


def channels_first(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def tower(request: Request) -> dict[str, Any]:
    import torch

    model = on_device(request, dtype_of(request))
    size = gpu_cases.arch_of(request).vision.image_size
    images = channels_first(gpu_cases.images_of(size, request.batch)).to(request.device, dtype_of(request))
    encode: Callable[..., Any] = functools.partial(model.encode_image, normalize=True)
    run = torch.compile(encode) if request.side == "compiled" else encode
    with torch.inference_mode():
        result = gpu_cases.timed(lambda: run(images), wait)
    return {**result, "work": request.batch}


def step(request: Request) -> dict[str, Any]:
    from benchmarks.training.torch_steps import torch_steps

    half = request.precision == "bfloat16"
    run = torch_steps(
        on_device(request),
        request.case.method,
        gpu_cases.arrays_of(request),
        request.device,
        bfloat16=half,
        compiled=request.side == "compiled",
    )
    losses: list[Any] = []

    def first_kept() -> Any:
        loss = run()
        if not losses:
            losses.append(loss.clone())
        return loss

    result = gpu_cases.timed(first_kept, wait)
    if request.side == "eager":
        request.loss.write_text(str(float(losses[0])))
    return {**result, "work": request.batch}


def files(request: Request) -> dict[str, Any]:
    from benchmarks.data.end_to_end import embed_with_loader

    model, root = on_device(request, dtype_of(request)), gpu_cases.images_in(request)
    size = gpu_cases.arch_of(request).vision.image_size
    sizes: list[int] = []

    def run() -> None:
        cores = len(os.sched_getaffinity(0))
        sizes.append(len(embed_with_loader(model, root, request.batch, cores, size)))

    return {**gpu_cases.timed(run, wait, once=True), "work": sizes[0]}


def decode(request: Request) -> dict[str, Any]:
    """transformers' `generate` with its growing cache, or with its static one, which it compiles itself."""
    import torch
    from transformers import LlamaForCausalLM

    shape, steps = gpu_cases.decoder_shape(request.case.arch, request.small), gpu_cases.steps_of(request)
    config = llama_config(shape)
    config.eos_token_id = None
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype_of(request))
    try:
        with torch.device(request.device):
            model: Any = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, shape["vocab_size"], (request.batch, gpu_cases.PROMPT))
    ids = torch.from_numpy(prompts).to(request.device)
    cache = "static" if request.side == "compiled" else None
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": steps, "cache_implementation": cache}

    def run() -> None:
        made = model.generate(ids, do_sample=False, pad_token_id=0, **options)
        if made.shape[1] != gpu_cases.PROMPT + steps:
            raise ValueError("answers ended early: nothing to compare")

    return {**gpu_cases.timed(run, wait, once=True), "work": request.batch * steps}


def llama_config(shape: dict[str, Any]) -> Any:
    """transformers' configuration of a decoder with these fields of a `DecoderConfig`."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["mlp_width"],
        vocab_size=shape["vocab_size"],
        max_position_embeddings=shape["context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
        rms_norm_eps=shape["norm_eps"],
        tie_word_embeddings=shape["tied"],
    )


if __name__ == "__main__":
    gpu_cases.serve(answer)
