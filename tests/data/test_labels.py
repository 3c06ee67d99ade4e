"""Label spaces, projections and prompt sets: the shipped files, and what a wrong file is told."""

from __future__ import annotations

import hashlib
import json

import pytest

from clipjax.data.labels import LabelSpace, load_labels, load_projection, load_prompts
from clipjax.errors import ClipjaxError, DataError, UsageError


def sha256(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_imagenet_names_are_openais():
    labels = load_labels("imagenet")
    assert sha256(labels.classes) == "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"
    zero_shot_metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    assert labels.classes == tuple(zero_shot_metadata.IMAGENET_CLASSNAMES)


def test_imagenet_ids_are_the_sorted_synsets():
    ids = load_labels("imagenet").ids
    assert list(ids) == sorted(ids)
    assert (len(ids), ids[0], ids[-1]) == (1000, "n01440764", "n15075141")


def test_imagenet_repeats_two_names():
    classes = load_labels("imagenet").classes
    pairs = {(i, classes.index(name)) for i, name in enumerate(classes) if classes.index(name) < i}
    assert pairs == {(744, 657), (837, 836)}


def test_the_80_templates():
    templates = load_prompts("openai_80").templates
    assert sha256(sorted(templates)) == "a8a4822f2921936e2ef07cf2e7a5df69be9532aab2f3f4880156bb03563e2467"
    assert sha256(templates) == "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af"


def test_the_other_sets():
    zero_shot_metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    simple = [template("{}") for template in zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES]
    assert list(load_prompts("openai_7").templates) == simple
    assert load_prompts("single").of_class("cat") == ("a photo of a cat.",)
    assert load_prompts("single_no_period").of_class("cat") == ("a photo of a cat",)


def test_cue_conflict_projection():
    projection = load_projection(load_labels("imagenet"), load_labels("cue_conflict"))
    assert projection is not None
    assert projection.kind == "mean_prob"
    sizes = [len(group) for group in projection.groups]
    assert sizes == [1, 4, 2, 49, 5, 7, 3, 6, 4, 3, 109, 2, 2, 1, 1, 8]
    members = [index for group in projection.groups for index in group]
    assert len(set(members)) == len(members) == 207
    # They look like birds and dogs, but are in no class.
    assert not set(members) & {7, 9, 17, 21, 84, 85, 86, 97, 134, 146, 151, 192, 204, 227, 242, 251, 258, 264}


def test_same_classes_need_no_projection():
    space = LabelSpace("mine", ("a", "b"), ("a", "b"))
    assert load_projection(space, LabelSpace("yours", ("A", "B"), ("a", "b"))) is None


def test_a_subset_selects_its_classes():
    source = LabelSpace("big", tuple("pqrs"), tuple("pqrs"))
    projection = load_projection(source, LabelSpace("small", ("S", "Q"), ("s", "q")))
    assert projection is not None
    assert (projection.kind, projection.groups) == ("select", ((3,), (1,)))


def test_unrelated_spaces_are_refused():
    says = r"on 'x', whose class 'a' is not one of its ids \('n01440764', ...\): .*/imagenet-to-x\.toml"
    with pytest.raises(UsageError, match=says):
        load_projection(load_labels("imagenet"), LabelSpace("x", ("a",), ("a",)))


def project(tmp_path, monkeypatch, text):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a-to-b.toml").write_text(text)
    monkeypatch.setenv("CLIPJAX_CONFIGS", str(tmp_path))
    source, target = LabelSpace("a", tuple("pqr"), tuple("pqr")), LabelSpace("b", tuple("xy"), tuple("xy"))
    return load_projection(source, target)


HEAD = 'from = "a"\nto = "b"\nkind = "select"\n[groups]\n'


def test_projection_groups_follow_the_targets_order(tmp_path, monkeypatch):
    projection = project(tmp_path, monkeypatch, HEAD + "y = [0]\nx = [2]\n")
    assert projection is not None
    assert projection.groups == ((2,), (0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "x = [0]\n", "no group for the class 'y'"),
        (HEAD + "x = [0]\ny = [1]\nz = [2]\n", "'z' is not a class of b"),
        (HEAD + "x = [0]\ny = [3]\n", "'y' repeats an index or leaves 0..2"),
        (HEAD + "x = [0]\ny = [1, 1]\n", "'y' repeats an index"),
        (HEAD + "x = [0]\ny = [1, 2]\n", "'select' takes one class, the group of 'y' has 2"),
        (HEAD.replace('"a"', '"c"') + "x = [0]\ny = [1]\n", "not those of the file's name"),
        (HEAD.replace("select", "median") + "x = [0]\ny = [1]\n", "expected from, to, kind"),
    ],
)
def test_wrong_projections_are_named(tmp_path, monkeypatch, text, message):
    with pytest.raises(DataError, match=message):
        project(tmp_path, monkeypatch, text)


def test_cupl_sentences(tmp_path):
    path = tmp_path / "cupl.json"
    path.write_text(json.dumps({"missile": [" A missile flies.", "It flies."], "cat": ["A cat."]}))
    prompts = load_prompts(path)
    assert prompts.of_class("missile") == (" A missile flies.", "It flies.")
    with pytest.raises(DataError, match="no sentence for the class 'dog'"):
        prompts.of_class("dog")


def test_real_cupl_file_covers_imagenet(test_data):
    prompts = load_prompts(test_data / "cupl" / "imagenet_prompts_base.json")
    labels = load_labels("imagenet")
    assert prompts.sentences is not None
    assert len(prompts.sentences) == 998
    assert {len(prompts.of_class(name)) for name in labels.classes} == {30}
    assert prompts.of_class(labels.classes[657]) == prompts.of_class(labels.classes[744])


def test_template_without_a_place_for_the_name(tmp_path):
    (tmp_path / "mine.txt").write_text("a photo of a {}.\na photo.\n")
    with pytest.raises(DataError, match=r"template 2 \('a photo\.'\) has no \{\}"):
        load_prompts(tmp_path / "mine.txt")


def test_templates_keep_their_spaces_and_lose_line_ends(tmp_path):
    (tmp_path / "mine.txt").write_bytes(b" {} \r\n\r\nthe {}\r\n")
    assert load_prompts(tmp_path / "mine.txt").templates == (" {} ", "the {}")


def test_a_class_name_with_braces_is_text(tmp_path):
    (tmp_path / "mine.txt").write_text("a {}, {0}")
    assert load_prompts(tmp_path / "mine.txt").of_class("x{y}") == ("a x{y}, {0}",)


def test_unknown_names_and_missing_files():
    with pytest.raises(
        UsageError, match=r"did you mean openai_80, .*\(or give a template itself, .* with \{\} for"
    ):
        load_prompts("openai80")
    with pytest.raises(UsageError, match=r"did you mean imagenet, .*classes themselves, \"cat,dog\"\)"):
        load_labels("imagnet")
    with pytest.raises(DataError, match=r"no/such\.txt does not exist"):
        load_prompts("no/such.txt")


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"cat": "A cat."}', '{"cat": [1]}'])
def test_wrong_sentence_files(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError, match=r"bad\.json"):
        load_prompts(tmp_path / "bad.json")


def test_label_file_of_the_user(tmp_path):
    (tmp_path / "pets.csv").write_text('id,name\nn1,"cat, tabby"\nn2,dog\n')
    labels = load_labels(tmp_path / "pets.csv")
    assert (labels.name, labels.classes, labels.ids) == ("pets", ("cat, tabby", "dog"), ("n1", "n2"))
    (tmp_path / "pets.csv").write_text("name\ncat\n")
    with pytest.raises(DataError, match="header `id,name`"):
        load_labels(tmp_path / "pets.csv")
    (tmp_path / "pets.csv").write_text("id,name\nn1,cat\nn1,dog\n")
    with pytest.raises(DataError, match=r"pets\.csv: the id 'n1' occurs twice"):
        load_labels(tmp_path / "pets.csv")


def test_digests_are_of_contents(tmp_path):
    a, b = LabelSpace("a", ("x", "y"), ("1", "2")), LabelSpace("b", ("x", "y"), ("1", "2"))
    assert a.digest == b.digest != LabelSpace("a", ("y", "x"), ("1", "2")).digest
    (tmp_path / "copy.txt").write_text("a photo of a {}.\n")
    assert load_prompts(tmp_path / "copy.txt").digest == load_prompts("single").digest
    assert load_prompts("single").digest != load_prompts("single_no_period").digest


def test_text_files_may_have_a_byte_order_mark_but_must_be_utf8(tmp_path) -> None:
    (tmp_path / "bom.txt").write_bytes("\ufeffa photo of a {}.\n".encode())
    assert load_prompts(tmp_path / "bom.txt").templates == ("a photo of a {}.",)
    (tmp_path / "latin.txt").write_bytes("une photo d'été {}.".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt is not UTF-8"):
        load_prompts(tmp_path / "latin.txt")
    (tmp_path / "labels.csv").write_bytes("id,name\ncafé,x\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"labels.csv is not UTF-8"):
        load_labels(tmp_path / "labels.csv")


def test_empty_names_and_templates_among_sentences_are_refused(tmp_path) -> None:
    (tmp_path / "labels.csv").write_text("id,name\na,cat\nb,\n")
    with pytest.raises(DataError, match=r"labels.csv:3: the name is empty"):
        load_labels(tmp_path / "labels.csv")
    (tmp_path / "p.json").write_text('{"cat": ["a {}."]}')
    with pytest.raises(DataError, match=r"'cat' has \{\}"):
        load_prompts(tmp_path / "p.json")
    (tmp_path / "afile").write_text("a {}.")
    with pytest.raises(UsageError, match=r"ends in .txt or .json"):
        load_prompts(tmp_path / "afile")


def test_classes_spelled_out_and_listed(tmp_path):
    spelled = load_labels("cat, dog")
    assert (spelled.name, spelled.classes, spelled.ids) == ("cat, dog", ("cat", "dog"), ("cat", "dog"))
    (tmp_path / "pets.txt").write_text("cat\n\n dog\n")
    listed = load_labels(tmp_path / "pets.txt")
    assert (listed.name, listed.digest) == ("pets", spelled.digest)
    long = load_labels(",".join(f"class {i}" for i in range(200)))
    assert (long.name, len(long)) == ("200 classes from class 0", 200)
    with pytest.raises(DataError, match=r"the classes 'cat,' have an empty name"):
        load_labels("cat,")
    with pytest.raises(DataError, match="label space cat,dog,cat: the id 'cat' occurs twice"):
        load_labels("cat,dog,cat")
    (tmp_path / "twice.txt").write_text("cat\ndog\ncat\n")
    with pytest.raises(DataError, match=r"twice\.txt: the id 'cat' occurs twice"):
        load_labels(tmp_path / "twice.txt")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(DataError, match=r"none\.txt: has no class"):
        load_labels(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("name", "there"), [("a,b.csv", False), ("a,b.tsv", False), ("a,b.tsv", True), ("a,b", True)]
)
def test_a_path_with_a_comma_is_not_a_list_of_classes(tmp_path, monkeypatch, name, there):
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / name).write_text("id,name\n")
    says = "is not a label space: expected a file that ends in .csv" if there else "does not exist"
    for path in (name, tmp_path / name):
        with pytest.raises(ClipjaxError, match=f"{name} {says}"):
            load_labels(path)
    with pytest.raises(ClipjaxError, match=f"{name} {says}"):
        load_labels(name, tmp_path)


def test_one_template_is_a_prompt_set():
    prompts = load_prompts("a photo + a sketch of a {}.")
    assert prompts.name == "a photo + a sketch of a {}."
    assert prompts.of_class("cat") == ("a photo + a sketch of a cat.",)


def test_files_beside_the_one_that_names_them(tmp_path):
    (tmp_path / "pets.csv").write_text("id,name\nc,cat\n")
    (tmp_path / "mine.txt").write_text("my {}\n")
    assert load_labels("pets", tmp_path).classes == load_labels("pets.csv", tmp_path).classes == ("cat",)
    assert load_prompts("mine+single", tmp_path).of_class("cat") == ("my cat", "a photo of a cat.")
    (tmp_path / "imagenet.csv").write_text("id,name\nc,cat\n")
    assert len(load_labels("imagenet", tmp_path)) == 1000  # a shipped name keeps its meaning
    with pytest.raises(UsageError, match="unknown label space 'pet'"):
        load_labels("pet", tmp_path)
