r"""The PyTorch reference, stage by stage: the only part of clipjax that imports torch.

    python -m converters.golden run --checkpoint w.safetensors --arch ViT-B-32 --library open_clip \
        --inputs in.npz --out out.npz

Forward hooks record every stage of the reference's own model, in clipjax's layout (channels last) and names.
towers/ has one file per family, folders and names as in `clipjax.models.families` (hf.py: transformers), with

    TOWERS              a list of `RecordedTower`
    open_clip_sizes     our record of the tower -> overrides of open_clip's vision_cfg or text_cfg
    timm_sizes          our record of the tower -> keyword arguments of `timm.create_model`

The last two exist where the library has the family; a timm trunk inside open_clip uses `timm_sizes`.
"""

from converters.golden._parent import end_with_parent
from converters.golden.build import build_model, load_strict, model_config
from converters.golden.run import run

__all__ = ["build_model", "end_with_parent", "load_strict", "model_config", "run"]
