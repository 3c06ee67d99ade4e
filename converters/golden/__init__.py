"""The PyTorch reference, stage by stage: the only part of clipjax that imports torch.

    python -m converters.golden run --checkpoint w.safetensors --arch ViT-B-32 --library open_clip \\
        --inputs in.npz --out out.npz

Nothing imports this package on the way from a checkpoint to a number: `clipjax.verification.verify` runs it
in a subprocess and exchanges arrays by file. It builds the reference's own model, loads weights strictly, and
records every stage with forward hooks, in clipjax's layout (channels last) and under clipjax's names.

    build.py       a library's model by NAME, at full size or with the sizes of a narrow record: whatever
                   decides a number but a size (activation, eps, pooling, bias) comes from the library
    transformers_models.py   the same of transformers, whose models have configs and no names
    recording.py   forward hooks; what a tower file has to offer
    towers/*.py    one file a family, named like those of `clipjax.models` (hf.py: transformers)
    condition.py   weights in which every tensor and every eps matters
    run.py         a model and inputs -> every stage and the results
    sweep.py       the same for many architectures in one process, and full-size shapes
    pipelines.py   a library's transform, tokenizer, model and head: the whole way from an image to scores
    crosscheck.py  real images and prompts along that way -> the arrays of each stage
    __main__.py    the command; _parent.py: it ends with the process that runs it

A tower file has

    TOWERS              a list of `Tower`: the torch classes of this family, how to record their stages and
                        how to condition what `condition.py` cannot set by the class of a layer
    open_clip_sizes     (our record of the tower) -> what to override in open_clip's vision_cfg or text_cfg
    timm_sizes          (our record of the tower) -> keyword arguments of `timm.create_model`

the last two where the library has the family (for a timm trunk inside open_clip it is `timm_sizes`).
"""

from converters.golden._parent import end_with_parent
from converters.golden.build import build_model, load_strict, model_config
from converters.golden.run import run

__all__ = ["build_model", "end_with_parent", "load_strict", "model_config", "run"]
