r"""The PyTorch reference, stage by stage: the only part of clipjax that imports torch.

    python -m converters.golden run --checkpoint w.safetensors --arch ViT-B-32 --library open_clip \
        --inputs in.npz --out out.npz

`clipjax.verification` runs it in a subprocess and exchanges arrays by file; clipjax's own numbers never
depend on it. It builds the reference's own model, loads weights strictly, and records every stage with
forward hooks, in clipjax's layout (channels last) and names.

    build.py       a library's model by NAME, at full size or with our record's sizes
    transformers_models.py   the same for transformers, which has configs and no names
    recording.py   forward hooks
    towers/*.py    one file per family, named as in `clipjax.models.families` (hf.py: transformers)
    condition.py   weights in which every tensor and every eps matters
    run.py         a model and inputs -> every stage and the results
    sweep.py       the same for many architectures, and full-size shapes
    pipelines.py   a library's whole way from an image to scores
    crosscheck.py  real images and prompts through a pipeline

A tower file has

    TOWERS              a list of `Tower`
    open_clip_sizes     our record of the tower -> overrides of open_clip's vision_cfg or text_cfg
    timm_sizes          our record of the tower -> keyword arguments of `timm.create_model`

The last two exist where the library has the family; a timm trunk inside open_clip uses `timm_sizes`.
"""

from converters.golden._parent import end_with_parent
from converters.golden.build import build_model, load_strict, model_config
from converters.golden.run import run

__all__ = ["build_model", "end_with_parent", "load_strict", "model_config", "run"]
