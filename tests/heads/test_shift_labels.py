"""Label spaces of the natural shifts are the published ones, and their projections what the references do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import clipjax
from clipjax.data.labels import LabelSpace, load_labels, load_projection, load_prompts
from clipjax.errors import UsageError
from clipjax.heads.build import zeroshot_head
from clipjax.heads.head import Head, score_blocks

# ImageNet indices (0-based, sorted synsets), as in hendrycks/natural-adv-examples, hendrycks/imagenet-r and
# mlfoundations/wise-ft, src/datasets/imagenet_a.py and imagenet_r.py.
IMAGENET_A = """
6 11 13 15 17 22 23 27 30 37 39 42 47 50 57 70 71 76 79 89 90 94 96 97 99 105 107 108 110 113 124 125
130 132 143 144 150 151 207 234 235 254 277 283 287 291 295 298 301 306-311 313-315 317 319 323 324 326
327 330 334-336 347 361 363 372 378 386 397 400-402 404 407 411 416 417 420 425 428 430 437 438 445 456
457 461 462 470 472 483 486 488 492 496 514 516 528 530 539 542 543 549 552 557 561 562 569 572 573 575
579 589 606 607 609 614 626 627 640-643 658 668 677 682 684 687 701 704 719 736 746 749 752 758 763 765
768 773 774 776 779 780 786 792 797 802-804 813 815 820 823 831 833 835 839 845 847 850 859 862 870 879
880 888 890 897 900 907 913 924 932-934 937 943 945 947 951 954 956 957 959 971 972 980 981 984 986-988
"""
IMAGENET_R = """
1 2 4 6 8 9 11 13 22 23 26 29 31 39 47 63 71 76 79 84 90 94 96 97 99 100 105 107 113 122 125 130 132 144
145 147 148 150 151 155 160-163 171 172 178 187 195 199 203 207 208 219 231 232 234 235 242 245 247 250
251 254 259 260 263 265 267 269 276 277 281 288 289 291-293 296 299 301 308-311 314 315 319 323 327 330
334 335 337 338 340 341 344 347 353 355 361 362 365-368 372 388 390 393 397 401 407 413 414 425 428 430
435 437 441 447 448 457 462 463 469-472 476 483 487 515 546 555 558 570 579 583 587 593 594 596 609 613
617 621 629 637 657 658 701 717 724 763 768 774 776 779 780 787 805 812 815 820 824 833 847 852 866 875
883 889 895 907 928 931-934 936 937 943 945 947-949 951 953 954 957 963 965 967 980 981 983 988
"""

# ImageNet-D's names for folders of ObjectNet.
RENAMED = {
    "bath_towel": "full_sized_towel",
    "cleaver": "butchers_knife",
    "coffee_or_french_press": "coffee_french_press",
    "dishcloth": "hand_towel_or_rag",
    "drying_rack_for_plates": "drying_rack_for_dishes",
    "gown": "dress",
    "matchstick": "match",
    "mixing_or_salad_bowl": "mixing_salad_bowl",
    "shopping_basket": "basket",
    "t_shirt": "t-shirt",
    "tea_cup": "drinking_cup",
    "teddy_bear": "stuffed_animal",
}


def numbers(ranges: str) -> list[int]:
    """Ranges as they are printed: 5 7-9 -> [5, 7, 8, 9]."""
    ends = [[int(end) for end in part.split("-")] for part in ranges.split()]
    return [i for each in ends for i in range(each[0], each[-1] + 1)]


def groups(target: str) -> dict[str, list[int]]:
    space = load_labels(target)
    projection = load_projection(load_labels("imagenet"), space)
    assert projection is not None
    assert projection.kind == "max"
    return {name: list(group) for name, group in zip(space.ids, projection.groups)}


@pytest.mark.parametrize(("name", "published"), [("imagenet_a", IMAGENET_A), ("imagenet_r", IMAGENET_R)])
def test_two_hundred_classes_in_the_order_of_imagenet(name, published):
    imagenet, space = load_labels("imagenet"), load_labels(name)
    projection = load_projection(imagenet, space)
    assert projection is not None
    assert projection.kind == "select"
    assert [group for (group,) in projection.groups] == numbers(published)
    assert len(space) == 200
    assert space.ids == tuple(sorted(space.ids))  # so the label is the rank of the folder
    assert space.classes == tuple(imagenet.classes[i] for i in numbers(published))


def test_twins_of_one_name():
    imagenet = load_labels("imagenet")
    for first, second, name in ((657, 744, "missile"), (836, 837, "sunglasses")):
        assert imagenet.classes[first] == imagenet.classes[second] == name
    assert imagenet.ids[657] in load_labels("imagenet_r").ids
    assert imagenet.ids[744] not in load_labels("imagenet_r").ids
    assert groups("objectnet")["sunglasses"] == groups("imagenet_d")["sunglasses"] == [837]


def test_objectnet():
    found, space = groups("objectnet"), load_labels("objectnet")
    sizes = [len(group) for group in found.values()]
    members = [index for group in found.values() for index in group]
    assert (len(found), sizes.count(1), sizes.count(2), sizes.count(3)) == (113, 104, 6, 3)
    assert len(set(members)) == len(members) == 125
    assert space.ids == tuple(sorted(space.ids))
    assert found["chair"] == [423, 559, 765]
    assert (found["pop_can"], found["keyboard"], found["desk_lamp"]) == ([737], [508], [846])
    assert (found["drinking_cup"], found["t-shirt"]) == ([968], [610])
    names = dict(zip(space.ids, space.classes))
    assert names["hand_towel_or_rag"] == "dishrag or hand towel"  # its own label, not the folder's name
    assert all(name == name.lower() for name in names.values())


def test_imagenet_d_is_objectnet_with_twelve_other_names():
    found, objectnet, space = groups("imagenet_d"), groups("objectnet"), load_labels("imagenet_d")
    assert {RENAMED.get(name, name): group for name, group in found.items()} == objectnet
    assert len(set(found) - set(objectnet)) == len(RENAMED) == 12
    assert space.ids == tuple(sorted(space.ids))
    # evaluate_vlm.py: the label with "_" and "-" as spaces, "/" as " or ", in lower case
    differs = {name for folder, name in zip(space.ids, space.classes) if name != folder.replace("_", " ")}
    assert differs == {
        "binder (closed)",
        "dress shoe (men)",
        "iron (for clothes)",
        "laptop (open)",
        "nail (fastener)",
        "weight (exercise)",
    }
    assert dict(zip(space.ids, space.classes))["coffee_or_french_press"] == "coffee or french press"
    assert load_prompts("imagenet_d").of_class("t shirt") == ("A photo of a t shirt",)


def test_imagenet_vid():
    found = groups("imagenet_vid")
    members = [index for group in found.values() for index in group]
    assert len(found) == 30
    assert len(set(members)) == len(members) == 288
    assert list(found)[:5] == ["airplane", "antelope", "bear", "bicycle", "bird"]
    assert list(found)[26:] == ["turtle", "watercraft", "whale", "zebra"]
    assert found["rabbit"] == [330, 332]
    assert found["bird"] == numbers("7-24 80-100 127-146")
    assert found["watercraft"][:2] == [403, 472]


PIXELS: Any = {"image_size": 8, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def by_letters(texts: list[str]) -> np.ndarray:
    rows = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


WORDS = clipjax.wrap(lambda images: images, by_letters, name="words", logit_scale=100.0, **PIXELS)


def scores_of(head: Head, features: np.ndarray, target: LabelSpace) -> np.ndarray:
    projection = load_projection(head.label_space, target)
    return np.concatenate([np.asarray(s.values) for _, s in score_blocks(head, features, projection)])


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_selecting_classes_is_a_head_of_these_classes_alone(name):
    features = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    space, prompts = load_labels(name), load_prompts("openai_7")
    whole = zeroshot_head(WORDS, load_labels("imagenet"), prompts)
    alone = zeroshot_head(WORDS, space, prompts)
    ours, reference = scores_of(whole, features, space), scores_of(alone, features, space)
    np.testing.assert_allclose(ours, reference, atol=1e-4)
    assert (ours.argmax(axis=1) == reference.argmax(axis=1)).all()


def test_spaces_without_a_projection_are_refused():
    with pytest.raises(UsageError, match=r"over the classes of 'objectnet' cannot be scored on 'imagenet_d'"):
        load_projection(load_labels("objectnet"), load_labels("imagenet_d"))
