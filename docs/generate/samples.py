"""Draws the sample pictures of docs/reference/data_sets.md from the demo's images, never from published ones.

.venv/bin/python -m docs.generate.samples demo-out/world     # writes docs/pictures/samples/*.png
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from clipjax.analysis.figures.examples import examples_figure
from clipjax.data.cards import DatasetCard, load_dataset, registered_cards
from clipjax.data.examples import examples_of

FOLDER = Path(__file__).resolve().parents[1] / "pictures" / "samples"
ACROSS, COLOURS = 4, 64  # images in a row; colours of the file, few to keep it small
# Published data set -> the demo data set with the same layout of files and kind of items.
LIKE = {
    "cue_conflict": "demo_cues",
    "cue_conflict_16": "demo_cues",
    "flickr30k": "demo_captions",
    "imagenet_3dcc": "demo_3dcc",
    "imagenet_a": "demo_a",
    "imagenet_c": "demo_corrupted",
    "imagenet_d": "demo_nuisance",
    "imagenet_o": "demo_confused",
    "imagenet_r": "demo_r",
    "imagenet_sketch": "demo_sketch",
    "imagenet_v2": "demo_v2",
    "imagenet_val": "demo_val",
    "imagenet_vid_robust": "demo_video",
    "imagenet_vid_robust_anchors": "demo_video",
    "imagenet_x": "demo_val",
    "inaturalist": "demo_unknown",
    "mscoco": "demo_captions",
    "mscoco_5captions": "demo_captions",
    "navi": "demo_navi",
    "ninco": "demo_ninco",
    "objectnet": "demo_objects",
    "scannet_pairs": "demo_scannet",
    "spair71k": "demo_spair",
    "textures": "demo_textures",
}
# Published data set -> why it has no sample.
WITHOUT = {
    "folder": "the images are yours",
    "imagenet_train": "the demo has no training set of class folders",
    "imagenet_train_tfds": "the demo has no records of TensorFlow Datasets",
    "places": "the demo renders no scenes without objects",
    "stylized_imagenet": "the demo paints no image in the style of another",
    "sun": "the demo renders no scenes without objects",
    "wds_imagenet_v2": "the items are those of `imagenet_v2`, in shards",
    "wds_imagenet_val": "the items are those of `imagenet_val`, in shards",
}


def sample_of(name: str) -> str:
    """The sample picture of a published data set in Markdown, or one sentence why it has no picture."""
    if name in WITHOUT:
        return f"No sample picture: {WITHOUT[name]}."
    own = LIKE[name]
    alike = f"Its files have the layout of `{name}`; none of them is from `{name}`"
    picture = f"![Items of {own}](../pictures/samples/{own}.png)"
    return f"{picture}\n\nRendered by clipjax: the demo's `{own}`. {alike}."


def cards_with_sample() -> list[DatasetCard]:
    """The last variant of each data set of the demo that `LIKE` names."""
    demo = (card for card in registered_cards() if card.demo)
    last = {card.name.partition(":")[0]: card for card in demo}
    return [card for name, card in last.items() if name in LIKE.values()]


def draw(cards: Iterable[DatasetCard], world: Path) -> None:
    FOLDER.mkdir(exist_ok=True)
    for card in cards:
        dataset = load_dataset(card.name, world / (card.place or card.name))
        examples = examples_of(dataset)
        kept = examples[: ACROSS // len(examples[0].images)]
        path = FOLDER / f"{card.name.partition(':')[0]}.png"
        examples_figure(kept, card.title, card.licence, path)
        with PIL.Image.open(path) as picture:
            picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    draw(cards_with_sample(), Path(sys.argv[1]))
