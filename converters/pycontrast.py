"""PyContrast's ResNets: an encoder that was trained without labels, and its classifier in a second file.

Source: bethgelab/model-vs-human, `pycontrast_resnet50.py`; the files themselves were not seen.
The encoder's `head.*` and `head_jig.*` are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clipjax.errors import DataError
from clipjax.storage.formats.tensors import Source

_PARTS = ("encoder.", "head.", "head_jig.")


def with_classifier(source: Source, path: Path, open_file: Callable[[Path], Source]) -> Source:
    """A PyContrast encoder joined with its classifier (`classifier.*`); any other source as it is.

    The classifier is beside it: NAME_classifier.pth for NAME.pth, or for NAME_800.pth.

    Raises DataError if that file is missing, or holds more than a weight and a bias.
    """
    if "encoder.conv1.weight" not in source or not all(key.startswith(_PARTS) for key in source):
        return source
    names = dict.fromkeys(f"{stem}_classifier.pth" for stem in (path.stem, path.stem.partition("_")[0]))
    files = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    if not files:
        raise DataError(
            f"{path} is a PyContrast encoder without its classifier: put {' or '.join(names)} beside it"
        )
    classifier = open_file(files[0])
    if set(classifier) != {"weight", "bias"}:
        some = ", ".join(sorted(classifier)[:4])
        raise DataError(f"{files[0]} is not PyContrast's classifier, a weight and a bias: it has {some}")
    tensors = {**source, **{f"classifier.{key}": tensor for key, tensor in classifier.items()}}
    return Source(tensors, source.format, (*source.files, *classifier.files), source.metadata)
