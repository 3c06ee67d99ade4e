"""What is fuzzed: for every reader of files, a whole file and the function that reads it.

The readers of pairs, corruptions, downloads and language models are in `_pair_subjects.py`,
`_corruption_subjects.py`, `_download_subjects.py` and `_language_subjects.py`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tarfile
import tempfile
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _corruption_subjects import register_corruptions
from _download_subjects import register_downloads
from _language_subjects import register_language
from _pair_subjects import register_pairs
from _subject import SUBJECTS, Read, plain, subject
from etils import epath

from clipjax.errors import DataError

__all__ = ["SUBJECTS"]  # complete once this module is imported

# --- checkpoints ---


def weights(folder: Path) -> Any:
    from converters.sources import open_source

    return plain({name: tensor.read() for name, tensor in open_source(folder / "w").items()})


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"a.weight": rng.normal(size=(4, 3)).astype("f4"), "a.bias": rng.normal(size=4).astype("f2")}


def tensors() -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays().items()}


@subject("w", "safetensors", weights)
def _safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(arrays(), folder / "w", metadata={"format": "pt"})


@subject("w", "zip", weights)
def _torch_zip(folder: Path) -> None:
    import torch

    torch.save({"state_dict": tensors(), "epoch": 3}, folder / "w")


@subject("w", "pickle", weights)
def _torch_legacy(folder: Path) -> None:
    import torch

    torch.save(tensors(), folder / "w", _use_new_zipfile_serialization=False)


@subject("w", "zip", weights, name="TorchScript")
def _torchscript(folder: Path) -> None:
    import warnings

    import torch

    with warnings.catch_warnings(action="ignore"):
        net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
        torch.jit.script(net).save(folder / "w")


@subject("w", "zip", weights)
def _npz(folder: Path) -> None:
    with (folder / "w").open("wb") as file:
        np.savez(file, **{**arrays(), "fortran": np.asfortranarray(np.ones((2, 3)))})


@subject("w", "text", weights, name="index of weight files")
def _index(folder: Path) -> None:
    from safetensors.numpy import save_file

    files = {"a.weight": "1.safetensors", "a.bias": "2.safetensors"}
    for name, file in files.items():
        save_file({name: arrays()[name]}, folder / file)
    (folder / "w").write_text(json.dumps({"metadata": {"total_size": 56}, "weight_map": files}))


def foreign(folder: Path) -> Any:
    from clipjax.checkpoints.card import card_from_dict
    from converters.foreign import read_foreign_card

    if (record := read_foreign_card(folder)) is None:
        raise DataError("no configuration")
    return card_from_dict(record, "config").to_dict()


@subject("open_clip_config.json", "text", foreign, name="config of open_clip")
def _open_clip(folder: Path) -> None:
    from converters.foreign.open_clip import known_configs

    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    record = {"model_cfg": known_configs()["ViT-B-32"], "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(record, indent=1))


CLIP = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP |= {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
VISION = {**CLIP, "image_size": 32, "patch_size": 8}
TEXT = {**CLIP, "max_position_embeddings": 16, "vocab_size": 100, "eos_token_id": 99, "bos_token_id": 98}
PIXELS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": True, "resample": 3}
PIXELS |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
PIXELS |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255}


def _transformers(folder: Path) -> None:
    record = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 32}
    record |= {"vision_config": VISION, "text_config": TEXT, "text_config_dict": {"hidden_size": 64}}
    (folder / "config.json").write_text(json.dumps(record, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS, indent=1))


subject("config.json", "text", foreign, name="config of transformers")(_transformers)
subject("preprocessor_config.json", "text", foreign, name="preprocessor of transformers")(_transformers)


@subject("config.json", "text", foreign, name="config of timm")
def _timm(folder: Path) -> None:
    name, tag = "vit_base_patch16_clip_224", "laion2b_ft_in12k_in1k"
    pixels = {"tag": tag, "input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic"}
    pixels |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    record = {"architecture": name, "num_classes": 1000, "global_pool": "token", "pretrained_cfg": pixels}
    (folder / "config.json").write_text(json.dumps(record, indent=1))


def label_names(folder: Path) -> Any:
    from converters.foreign import read_label_names

    return read_label_names(folder)


@subject("config.json", "text", label_names, name="label names of timm")
def _label_names(folder: Path) -> None:
    words = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "tench", "n3": "shark"}}
    record = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": words}
    (folder / "config.json").write_text(json.dumps(record, indent=1))


# --- what clipjax writes itself ---


def own_checkpoint(folder: Path) -> Any:
    from clipjax.checkpoints.native import load_checkpoint, read_card_file

    target = {"a": {"weight": np.empty((4, 3)), "bias": np.empty(4)}}
    found = load_checkpoint(read_card_file(folder), target, verify=True)
    return plain([dict(found.conversion.leaves(np.float32)), found.carried])


def own_card(folder: Path) -> Any:
    from clipjax.checkpoints.card import card_from_dict
    from clipjax.checkpoints.native import read_card_file

    record = read_card_file(folder).record
    own_checkpoint(folder)
    card = {key: value for key, value in record.items() if key != "files"}
    return card_from_dict(card, "card.json").to_dict()


def _own(folder: Path) -> None:
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.checkpoints.native import save_checkpoint

    leaves = {name.replace(".", "/"): array for name, array in arrays().items()}
    card = model_card("vit_b_32-openai").to_dict()
    save_checkpoint(folder, leaves, {"extra": np.arange(3)}, card, None, {"format": "pt"})


subject("model.safetensors", "safetensors", own_checkpoint, name="own weights", digest=True)(_own)
subject("card.json", "text", own_card, name="own card")(_own)

KEY = {"model": "m", "output": "images"}
IDS = ["a.png", "b.png", "c.png"]


def stored(folder: Path) -> Any:
    from clipjax.storage.store import Store

    entry = Store(folder).entry(KEY, ids=IDS, rows_per_shard=2, per_device_batch=2)
    loaded = [entry.load_shard(k) for k in range(entry.shards)]
    if None in loaded:
        raise DataError("a damaged shard is made again")
    return plain(loaded)


def store_record(folder: Path) -> Any:
    from clipjax.storage.store import Store

    return plain([[vars(info) for info in Store(folder).ls()], vars(Store(folder).find(KEY) or 0)])


def _stored(folder: Path) -> None:
    from clipjax.storage.store import Store

    entry = Store(folder).entry(KEY, ids=IDS, rows_per_shard=2, per_device_batch=2, about={"model": "m"})
    for k in range(entry.shards):
        rows = entry.shard_rows(k)
        entry.write_shard(k, [IDS[i] for i in rows], np.arange(4 * len(rows), dtype="f4").reshape(-1, 4))


def _key_hash() -> str:
    from clipjax.storage.entry import key_hash

    return key_hash(KEY)


SHARD = f"{_key_hash()}/00000-of-00002.safetensors"
subject(SHARD, "safetensors", stored, name="store: shard", digest=True)(_stored)
subject(f"{_key_hash()}/key.json", "text", store_record, name="store: key.json")(_stored)


def rows(folder: Path) -> Any:
    from clipjax.results.store import ResultStore

    store = ResultStore(folder)
    if not (ids := store.run_ids()):
        raise DataError("no run")
    return [store.rows(every=True), [store.images(run).to_pydict() for run in ids]]


RUN = "20260101T000000.000000Z-00000000"


def _rows(folder: Path) -> None:
    from _rows import row

    from clipjax.results.store import ResultStore

    several = [row(RUN, metric=name, value=value) for name, value in (("top1", 0.5), ("top5", 0.75))]
    ResultStore(folder).add(several, {"id": IDS, "label": [0, 1, 0], "prediction": [0, 1, 1]})


def indexed_rows(folder: Path) -> Any:
    from clipjax.results.runs.run_index import NAME, _read

    if not (lines := [line for _, line in _read(folder / NAME)]):
        raise DataError("a damaged index is made again")
    return [[line.shared, line.keys, line.rows] for line in lines]


@subject(".index.jsonl", "text", indexed_rows, name="results: index", digest=True)
def _indexed(folder: Path) -> None:
    from _rows import row

    from clipjax.results.runs import run_index
    from clipjax.results.store import ResultStore

    ResultStore(folder).add([row(RUN, metric="top1"), row(RUN, metric="top5", value=0.75)])
    with unittest.mock.patch.multiple(run_index, LEAST=0, SETTLED_NS=-(10**9)):
        ResultStore(folder).rows()


subject(f"{RUN}/run.json", "text", rows, name="results: run.json")(_rows)
subject(f"{RUN}/rows.jsonl", "text", rows, name="results: rows.jsonl", digest=True)(_rows)
subject(f"{RUN}/images.parquet", "bytes", rows, name="results: images.parquet", digest=True)(_rows)


# --- TOML ---

SUITE = """
models = ["vit_b_32-openai", "rn50-openai"]
[[runs]]
task = "zeroshot"
data = "imagenet_val"
prompts = "openai_imagenet"
"""


def shipped(folder: str, name: str) -> Callable[[Path], object]:
    """Copies one of the files that ship with clipjax."""
    from clipjax.config import config_dir

    return lambda place: (place / "w.toml").write_bytes((config_dir() / folder / f"{name}.toml").read_bytes())


def dataset_card(folder: Path) -> Any:
    from clipjax.data.cards import cards_in, label_spaces

    return [(str(card), str(label_spaces(card))) for card in cards_in(folder)]


def suite(folder: Path) -> Any:
    from clipjax.sweep.suite import load_suite

    return str(load_suite(folder / "w.toml"))


def figure(folder: Path) -> Any:
    from clipjax.analysis.figures.spec import load_spec

    return str(load_spec(folder / "w.toml"))


def recipe(folder: Path) -> Any:
    from clipjax.finetune.recipe import load_recipe

    return load_recipe(folder / "w.toml").to_dict()


def scheme(folder: Path) -> Any:
    from clipjax.analysis.rows.groups import groups, schemes

    groups.cache_clear()
    return [[str(group) for group in groups(name, folder / "w.toml")] for name in schemes(folder / "w.toml")]


def register_toml() -> None:
    for name, file, read in (
        ("imagenet_val", "datasets", dataset_card),
        ("imagenet_3dcc", "datasets", dataset_card),
        ("fig1", "suites", suite),
        ("fig5", "figures", figure),
        ("table1", "figures", figure),
        ("flyp_few_shot", "finetune", recipe),
        ("groups", ".", scheme),
    ):
        subject("w.toml", "text", read, name=f"TOML: {name}")(shipped(file, name))


register_toml()


# --- annotations, manifests, labels, prompts ---


def factors(folder: Path) -> Any:
    from clipjax.data.annotations import load_factors

    return plain(vars(load_factors(folder)))


FILES = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)]


def _imagenet_x(folder: Path) -> None:
    names = ("pose", "color", "background")
    for ending in ("top", "multi"):
        lines = [
            {"file_name": FILES[i], "class": i, **{n: int(k == i) for k, n in enumerate(names)}}
            for i in range(3)
        ]
        text = "\n".join(map(json.dumps, lines))
        (folder / f"imagenet_x_val_{ending}_factor.jsonl").write_text(text + "\n")
    (folder / "imagenet_x_real_labels.jsonl").write_text("[[0], [0, 1], [2]]")


subject("imagenet_x_val_top_factor.jsonl", "text", factors, name="ImageNet-X: factors")(_imagenet_x)
subject("imagenet_x_real_labels.jsonl", "text", factors, name="ImageNet-X: accepted labels")(_imagenet_x)


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture("PNG"))


def manifest(value: Any) -> Any:
    return plain([value.ids, value.labels, value.columns, value.label_names])


def opened(value: Any) -> Any:
    """The manifest with the bytes of every image."""
    return [manifest(value), [value.open(i) for i in range(len(value))]]


def captions(folder: Path) -> Any:
    from clipjax.data.readers.karpathy import read_karpathy

    return manifest(read_karpathy(epath.Path(folder), file="w.json"))


@subject("w.json", "text", captions, name="captions: Karpathy")
def _karpathy(folder: Path) -> None:
    images(folder, "a.png", "b.png")
    texts = [{"raw": "a text"}, {"raw": "x"}]
    records = [{"filename": f"{n}.png", "split": "test", "sentences": texts} for n in "ab"]
    (folder / "w.json").write_text(json.dumps({"images": records, "dataset": "x"}, indent=1))


@subject("w.json", "text", captions, name="captions: COCO")
def _coco(folder: Path) -> None:
    images(folder, "a.png", "b.png")
    named = [{"id": i, "file_name": f"{n}.png"} for i, n in enumerate("ab")]
    notes = [{"image_id": i, "id": 10 + i, "caption": f"picture {i}"} for i in range(2)]
    (folder / "w.json").write_text(json.dumps({"images": named, "annotations": notes}, indent=1))


def vid(folder: Path) -> Any:
    from clipjax.data.readers.vid_robust import read_vid_robust

    return manifest(read_vid_robust(epath.Path(folder), ["a", "b", "c"]))


def _vid(folder: Path) -> None:
    frames = [f"val/v{v}/{i:06d}.png" for v in range(2) for i in range(3)]
    images(folder, *frames)
    (folder / "metadata").mkdir()
    labels = {frame: [0, 2] if "v0" in frame else [1] for frame in frames}
    (folder / "metadata/labels.json").write_text(json.dumps(labels))
    sets = {frames[1]: [frames[0], frames[2]], frames[4]: [frames[3], frames[5]]}
    (folder / "metadata/pmsets.json").write_text(json.dumps(sets))


subject("metadata/labels.json", "text", vid, name="Vid-Robust: labels.json")(_vid)
subject("metadata/pmsets.json", "text", vid, name="Vid-Robust: pmsets.json")(_vid)


def listed(file: str) -> Read:
    def read(folder: Path) -> Any:
        from clipjax.data.readers.manifest_file import read_manifest_file

        return manifest(read_manifest_file(epath.Path(folder), file=file))

    return read


@subject("w.csv", "text", listed("w.csv"), name="manifest: CSV")
def _csv(folder: Path) -> None:
    images(folder, "a.png", "b.png", "c.png")
    (folder / "w.csv").write_text('path,label,group\na.png,0,"x, y"\nb.png,1,z\nc.png,0,z\n')


@subject("w.jsonl", "text", listed("w.jsonl"), name="manifest: JSONL")
def _jsonl(folder: Path) -> None:
    images(folder, "a.png", "b.png", "c.png")
    same = {"label": "cat", "captions": ["a cat", "x"]}
    lines = [{"path": f"{n}.png", "id": i, **same} for i, n in enumerate("abc")]
    (folder / "w.jsonl").write_text("\n".join(map(json.dumps, lines)))


def labels(folder: Path) -> Any:
    from clipjax.data.labels import load_labels

    return str(load_labels(folder / "w.csv"))


@subject("w.csv", "text", labels, name="labels: CSV")
def _labels(folder: Path) -> None:
    (folder / "w.csv").write_text('id,name\nn01,"tench, fish"\nn02,goldfish\n')


def prompts(folder: Path) -> Any:
    from clipjax.data.labels import load_prompts

    return str(load_prompts(folder / "w.json"))


@subject("w.json", "text", prompts, name="prompts: JSON")
def _prompts(folder: Path) -> None:
    (folder / "w.json").write_text(json.dumps({"cat": ["a cat", "the cat"], "dog": ["a dog"]}))


# --- predictions ---


def predictions(task: str, file: str, **options: str) -> Read:
    def read(folder: Path) -> Any:
        from clipjax.evaluation.predictions.scoring import evaluate_predictions

        beside = {name: folder / value for name, value in options.items()}
        result = evaluate_predictions(task, folder / file, resamples=100, **beside)  # type: ignore[arg-type]
        return [(row["metric"], row["value"], row["n"]) for row in result.rows]

    return read


@subject("w.npz", "zip", predictions("zeroshot", "w.npz"), name="predictions: npz")
def _predicted_npz(folder: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype("f4")
    np.savez(folder / "w.npz", logits=logits, labels=np.arange(6) % 3, ids=np.array(list("abcdef")))


@subject(
    "w.parquet", "bytes", predictions("zeroshot", "w.parquet", labels="w.csv"), name="predictions: Parquet"
)
def _predicted_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _labels(folder)
    columns = {"id": list("abcd"), "label": [0, 1, 0, 1], "prediction": [0, 1, 1, 1]}
    right = [a == b for a, b in zip(columns["label"], columns["prediction"])]
    more = {"correct": right, "correct5": [True] * 4, "confidence": [0.5, 0.75, 0.5, 1.0]}
    pq.write_table(pa.table({**columns, **more}), folder / "w.parquet")


@subject("w.csv", "text", predictions("shape_bias", "w.csv"), name="predictions: decisions CSV")
def _decisions(folder: Path) -> None:
    head = "subj,session,trial,rt,object_response,category,condition,imagename\n"
    cells = [("cat", "cat", "cat1-dog2"), ("dog", "cat", "cat2-dog1"), ("bear", "bear", "bear1-car3")]
    lines = [f"m,1,{i},NaN,{said},{shape},0,{name}.png\n" for i, (said, shape, name) in enumerate(cells)]
    (folder / "w.csv").write_text(head + "".join(lines))


@subject(
    "w.csv", "text", predictions("imagenet_x", "w.csv", annotations="."), name="predictions: classes CSV"
)
def _classes(folder: Path) -> None:
    _imagenet_x(folder)
    lines = [f"{FILES[i]},{i},0.{i}5\n" for i in range(3)]
    (folder / "w.csv").write_text("file_name,predicted_class,predicted_probability\n" + "".join(lines))


# --- images and what holds them ---


def picture(format: str, **options: Any) -> bytes:
    import PIL.Image

    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def decoded(folder: Path) -> Any:
    from clipjax.data.pixels.preprocess import open_image

    return open_image(folder / "w").convert("RGB").tobytes()


def register_images() -> None:
    for name in ("PNG", "JPEG", "GIF", "WEBP"):
        subject("w", "bytes", decoded, name=f"image: {name}")(
            lambda folder, name=name: (folder / "w").write_bytes(picture(name))
        )


register_images()


register_corruptions()
register_downloads()
register_pairs()


def webdataset(folder: Path) -> Any:
    from clipjax.data.readers.webdataset import read_webdataset

    return opened(read_webdataset(epath.Path(folder / "w.tar")))


@subject("w.tar", "tar", webdataset)
def _webdataset(folder: Path) -> None:
    with tarfile.open(folder / "w.tar", "w") as archive:
        for i in range(3):
            for name, raw in (("png", picture("PNG")), ("cls", b"%d" % i), ("txt", b"a text")):
                info = tarfile.TarInfo(f"{i:03d}.{name}")
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))


def packed(folder: Path) -> Any:
    from clipjax.data.readers.packed import read_packed

    found = read_packed(folder)
    found.opener.content_digests()  # as an evaluation begins
    return opened(found)


def _packed(folder: Path) -> None:
    from clipjax.data.pack import pack
    from clipjax.data.readers.manifest_file import read_manifest_file

    with tempfile.TemporaryDirectory() as source, contextlib.chdir(source):
        _csv(Path(source))
        pack(read_manifest_file(epath.Path(source), file="w.csv"), folder, "webdataset", images_per_shard=2)


subject("00000.tar", "tar", packed, name="packed: shard", digest=True)(_packed)
subject("manifest.json", "text", packed, name="packed: manifest.json", digest=True)(_packed)


def parquet(folder: Path) -> Any:
    from clipjax.data.readers.hf_parquet import read_hf_parquet

    return opened(read_hf_parquet(epath.Path(folder / "w.parquet")))


@subject("w.parquet", "bytes", parquet, name="Parquet of images")
def _parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [{"bytes": picture("PNG"), "path": f"{i}.png"} for i in range(3)]
    pq.write_table(pa.table({"image": pictures, "label": [0, 1, 0]}), folder / "w.parquet")


# --- tokenizers ---


def vocabulary(tokenizer: str, *files: str) -> Read:
    def read(folder: Path) -> Any:
        from _vocabularies import small_rules

        from clipjax.data.text import vocabularies

        own = small_rules(vocabularies.rules())[tokenizer]
        encode = vocabularies.read_vocabulary(own, [folder / file for file in files])
        return encode(["a photo of a cat", "<mask> Привет, 世界"])

    return read


def register_tokenizers() -> None:
    for tokenizer, kind, names in (
        ("siglip", "model", ("spiece.model",)),
        ("siglip", "json", ("tokenizer.json",)),
        ("roberta", "files", ("vocab.json", "merges.txt")),
        ("roberta", "json", ("tokenizer.json",)),
    ):
        for name in names:

            def make(folder: Path, tokenizer: str = tokenizer, kind: str = kind, names: Any = names) -> None:
                for each in names:
                    (folder / each).write_bytes(
                        (Path(_trained().name) / tokenizer / kind / each).read_bytes()
                    )

            form = "bytes" if name.endswith(".model") else "text"
            title = f"tokenizer: {tokenizer} {name}"
            subject(name, form, vocabulary(tokenizer, *names), name=title)(make)


@functools.cache
def _trained() -> tempfile.TemporaryDirectory[str]:
    """Small vocabularies, trained once a process; the folder goes with it."""
    from _vocabularies import write_folders

    folder = tempfile.TemporaryDirectory(prefix="clipjax-fuzz-")
    write_folders(Path(folder.name))
    return folder


register_tokenizers()
register_language()
