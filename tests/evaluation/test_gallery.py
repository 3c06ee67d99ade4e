"""`clipjax gallery`: thumbnails, licences, the page, and its links from the report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from _browser import LOW_CONTRAST, NAMELESS, TOO_WIDE, chromium, opened
from _pictured import CARD, CLASSES, EACH, RECIPE, SIZE, add_run, colour, paint, pets, thumbnails
from PIL import Image
from typer.testing import CliRunner

from clipjax import cli
from clipjax.data.cards import Dataset, load_dataset, registered_cards
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.data.pixels.preprocess import open_image, to_pixels
from clipjax.errors import ClipjaxError
from clipjax.evaluation.gallery.gallery import write_gallery
from clipjax.evaluation.gallery.image_choice import Choosing
from clipjax.evaluation.gallery.model_answers import answered_sets
from clipjax.evaluation.gallery.thumbnails import ImagePlaces, image_source, pictures_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CATS = [f"cat/{i}.png" for i in range(EACH)]
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Images and two models' runs on them; `b` is right about every image."""
    dataset = pets(paint(tmp_path / "pets"))
    add_run(tmp_path / "results", dataset, "a", [*CATS, "dog/1.png"])
    add_run(tmp_path / "results", dataset, "b", [])
    return tmp_path


def gallery(home: Path, *options: object) -> tuple[str, str]:
    """The page, "" if none was written, and what the command said."""
    out = home / "gallery.html"
    out.unlink(missing_ok=True)
    arguments = ["gallery", "--results", home / "results", "--out", out, *options]
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, ClipjaxError), done.exception
    said = str(done.exception) if done.exception else done.output
    return out.read_text() if out.exists() else "", said


def with_card(home: Path, *lines: str) -> Path:
    """A card of the images, below whose folder they are."""
    (home / "pets.toml").write_text("\n".join([CARD, *lines]))
    return home / "pets.toml"


def stored(home: Path, dataset: Dataset) -> Path:
    """The images' pixels in a store, as a run leaves them."""
    manifest = dataclasses.replace(dataset.manifest, name="pets")
    with PixelStore(home / "pixels").batches(manifest, RECIPE, batch_size=8) as batches:
        assert sum(int((batch["row"] >= 0).sum()) for batch in batches) == len(manifest)
    return home / "pixels"


def test_a_page_of_the_folders_images(home: Path) -> None:
    page, said = gallery(home, "a", "b", "--data", home / "pets")
    assert re.fullmatch(rf"{re.escape(str(home))}/gallery\.html: 0\.\d MB, 11 images in 5 groups\n", said)
    assert "11 thumbnails of at most 96 pixels, " in page
    assert "Only b is right" in page
    assert "All 11 images that b gets right and a gets wrong." in page
    assert "No images that a gets right and b gets wrong." in page
    assert "Thumbnails show the whole images, made smaller: not the crop that a model sees." in page
    assert "Licence of the images: not stated" in page
    for alt, form, pixels in thumbnails(page):
        label, name = alt.split(": ")
        k, i = CLASSES.index(label), int(Path(name).stem)
        assert (form, pixels.shape) == ("jpeg", (SIZE[1], SIZE[0], 3)), "no small image grows"
        assert np.abs(pixels[20, 40].astype(int) - colour(k, i)).max() < 12, "each name has its own picture"
        assert pixels[20, 2, 2] > 200, "the left edge, which the crop loses"


def test_an_image_has_its_label_and_every_answer(home: Path) -> None:
    page, _ = gallery(home, "a", "b", "--show", "disagree", "--data", home / "pets")
    [card] = re.findall(r'<li class="box"><img alt="dog: dog/1.png".*?</ul>', page)
    text = " ".join(re.sub("<[^>]*>", " ", card).split())
    assert text == "dog A ✗ owl 0.65 B ✓ dog 0.65"
    assert 'role="img" aria-label="wrong"' in card


def test_stored_pixels_are_the_crop_that_the_models_saw(home: Path) -> None:
    dataset = load_dataset("folder", home / "pets")
    store = stored(home, dataset)
    (home / "pets").rename(home / "away")
    page, _ = gallery(home, "--pixel-store", store, "--show", "disagree")
    assert "the crop that b and a saw (32 px, short side 32, bicubic, RGB first)" in page
    for alt, form, pixels in thumbnails(page):
        image = open_image(home / "away" / alt.split(": ")[1])
        assert form == "png"
        assert np.array_equal(pixels, to_pixels(image, RECIPE)), "every bit of it"


def test_a_model_with_another_crop_is_named(home: Path) -> None:
    dataset = pets(home / "pets")
    other = {"images": dataset.manifest.digest, "dataset": "pets", "pixels": {"image_size": 48}}
    add_run(home / "results", dataset, "c", [], recipe=other)
    page, _ = gallery(home, "--pixel-store", stored(home, dataset), "--show", "hardest")
    assert "b and a saw (32 px, short side 32, bicubic, RGB first)" in page
    assert "made smaller where it is larger; c saw another." in page


def test_other_images_of_the_same_name_are_not_shown(home: Path) -> None:
    """Pixels of changed images lie beside the right ones: only the folder tells which are which."""
    dataset = pets(home / "pets")
    store = stored(home, pets(paint(home / "changed", shift=50)))
    stored(home, dataset)
    _, said = gallery(home, "--pixel-store", store)
    assert said.endswith(
        "has several copies of pets: give the folder of the images of the runs, too (--data)"
    )
    page, _ = gallery(home, "--pixel-store", store, "--data", home / "pets", "--show", "disagree")
    [pixels] = [pixels for alt, _, pixels in thumbnails(page) if alt.endswith("cat/3.png")]
    assert pixels[16, 16].tolist() == [60, 0, 60]
    _, said = gallery(home, "--data", home / "changed")
    assert "its images or labels are not those of the runs on pets: give the folder" in said
    (home / "pets" / "owl" / "3.png").unlink()
    _, said = gallery(home, "--data", home / "pets")
    assert "has no image 'owl/3.png' of the runs on pets" in said


def test_an_image_that_cannot_be_read_is_named_in_its_place(home: Path) -> None:
    dataset = pets(home / "pets")
    [answered] = answered_sets(home / "results")
    source = image_source(answered, ImagePlaces(data=home / "pets"))
    (home / "pets" / "cat" / "0.png").write_bytes(b"no image")
    pictures = pictures_of(source, answered, [0, 1])
    assert (list(pictures.thumbnails), list(pictures.unreadable)) == ([1], [0])
    assert "cat/0.png" in pictures.unreadable[0]
    assert len(dataset.manifest) == 30


def test_a_border_that_the_licence_wants_seen_is_kept(home: Path) -> None:
    """ObjectNet's crop has lost it: the whole image is shown, though the store has the crop."""
    card = with_card(home, "[pixels]", "pre_crop = 2")
    store = stored(home, pets(home / "pets"))
    options = ("--card", card, "--pixel-store", store, "--show", "disagree")
    _, said = gallery(home, *options)
    assert said.startswith("the images of pets are not here"), "rather none than a crop"
    page, _ = gallery(home, *options, "--data", home / "pets")
    for _, form, pixels in thumbnails(page):
        assert form == "png", "exact, so that a border of one pixel keeps its colour"
        assert (pixels[:, :8] == (0, 0, 255)).all()


# Licences.


def test_images_that_a_licence_hides_are_never_shown(home: Path) -> None:
    card = with_card(home, 'hidden = "patients did not agree"')
    for options in ((), ("--private",)):
        page, said = gallery(home, "--data", home / "pets", "--card", card, *options)
        assert page == ""
        assert said == "the images of pets may not be shown: patients did not agree"
    _, said = gallery(home, "--data-root", home)
    assert "may not be shown" in said, "the card is found below the data root, too"


def test_images_that_may_not_be_passed_on_are_shown_to_their_user_alone(home: Path) -> None:
    card = with_card(home, 'licence = "our terms"', 'private = "our terms hold for those who signed them"')
    options = ("--data", home / "pets", "--card", card)
    page, said = gallery(home, *options)
    assert page == ""
    assert said.startswith("the images of pets may not be passed on, as a page can be (our terms hold for")
    page, _ = gallery(home, *options, "--private")
    assert "Do not pass this page on: pets: our terms hold for those who signed them." in page
    assert "Licence of the images: our terms." in page
    assert thumbnails(page)


def test_what_is_left_out_is_on_the_page(home: Path) -> None:
    """One of two data sets may be shown."""
    dataset = pets(paint(home / "birds"))
    for model in "ab":
        add_run(home / "results", dataset, model, CATS, dataset="birds", recipe={"dataset": "birds"})
    with_card(home, 'hidden = "they are shy"')
    (home / "birds.toml").write_text(CARD.replace("pets", "birds"))
    page, said = gallery(home, "--dataset", "pets", "--dataset", "birds", "--data-root", home)
    assert "left out: the images of pets may not be shown: they are shy\n" in said
    assert "<li>the images of pets may not be shown: they are shy.</li>" in page
    assert {alt.split(": ")[0] for alt, _, _ in thumbnails(page)} == {"cat"}
    assert 'id="images-0">birds' in page
    _, said = gallery(home, "--dataset", "pets", "--dataset", "birds", "--data", home / "birds")
    assert said == "--data is one data set's folder, and 2 data sets are shown: give --data-root"


def test_a_shipped_card_with_terms_for_research_alone_is_private() -> None:
    """The field decides, whatever the card is called."""
    limited = re.compile(r"non-commercial|CC BY-NC|ImageNet terms|terms of use \(|research purposes")
    for card in registered_cards():
        assert (card.private is not None) == bool(limited.search(card.licence or "")), card.name
    private = {card.name.partition(":")[0] for card in registered_cards() if card.private}
    assert {"imagenet_val", "imagenet_x", "imagenet_3dcc", "inaturalist"} <= private
    assert not {"imagenet_r", "cue_conflict", "demo_x", "objectnet"} & private


# Where images are.


def test_without_images_one_sentence_says_what_to_give(home: Path) -> None:
    for options in ((), ("--data-root", home), ("--pixel-store", home / "nothing")):
        page, said = gallery(home, *options)
        assert page == ""
        assert said.startswith("the images of pets are not here: give their folder (--data, or --data-root")


def test_a_sample_of_a_data_set_is_found_in_its_folder(home: Path) -> None:
    dataset = pets(home / "pets")
    part = dataclasses.replace(dataset, manifest=dataset.manifest.sample(12, 3))
    sample = {"limit": 12, "seed": 3, "of": 30}
    run = add_run(home / "results", part, "a", CATS, sample=sample)
    page, _ = gallery(home, run, "--data", home / "pets")
    shown = {alt.split(": ")[1] for alt, _, _ in thumbnails(page)}
    assert shown == {*CATS} & {*part.manifest.ids}


def test_bad_input_is_answered_in_a_sentence(home: Path) -> None:
    data = ("--data", home / "pets")
    for options, words in (
        (("--show", "hard"), "unknown --show 'hard'; did you mean hardest"),
        (("--show", "factor"), "--show factor needs --by COLUMN: columns of zeroshot on pets: prediction,"),
        (("--by", "pose"), "unknown column (--by) 'pose'"),
        (
            ("a", "--show", "changed"),
            "--show changed compares two models, before and after; pets has 1 model here",
        ),
        (("--dataset", "cats"), "unknown data set that the models share 'cats'"),
        (("c",), "unknown run or model 'c'; known: a, b"),
    ):
        page, said = gallery(home, *options, *data)
        assert (page, said[: len(words)]) == ("", words)


def test_groups_by_a_column_of_the_data_set(home: Path) -> None:
    """A manifest's own columns group its images, without a task that knows of them."""
    dataset = pets(home / "pets")
    where = ["in" if name in CATS[:4] else "out" for name in dataset.manifest.ids]
    with_column = dataclasses.replace(dataset.manifest, columns={"where": where})
    source = image_source(answered_sets(home / "results")[0], ImagePlaces(data=home / "pets"))
    source = dataclasses.replace(source, dataset=dataclasses.replace(dataset, manifest=with_column))
    assert source.columns(["dog/0.png", "cat/0.png"]) == {"where": ["out", "in"]}


# The page in a browser, and the report's links.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page_and_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of five models, so that answers are folded, with hostile names; beside it a report that links to it."""
    home = tmp_path_factory.mktemp("gallery")
    dataset = pets(paint(home / "pets"))
    for k, model in enumerate([HOSTILE, "a_long_name_" * 6, "c", "d", "e"]):
        add_run(home / "results", dataset, model, CATS[k:], table={"prediction_name": [HOSTILE] * 30})
    page = home / "all images.html"
    places = ImagePlaces(data=home / "pets")
    write_gallery(home / "results", page, title=HOSTILE, places=places, choosing=Choosing(by="label"))
    arguments = ["report", home / "results", "--gallery", page, "--out", home / "deep" / "report.html"]
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return page, home / "deep" / "report.html"


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "dark"), (320, "light")]
)
def test_it_is_readable_everywhere(
    browser: Browser, page_and_report: tuple[Path, Path], width: int, scheme: str
) -> None:
    """Nothing is loaded or said to the console, nothing reaches beyond the window, all text has contrast."""
    with opened(browser, page_and_report[0], width=width, scheme=scheme) as page:
        assert page.title() == f"Images: {HOSTILE}"
        assert page.locator("main script").count() == 0
        assert page.evaluate(TOO_WIDE) == []
        assert page.evaluate(LOW_CONTRAST) == []
        assert page.evaluate(NAMELESS) == []
        pictures = page.locator("img")
        assert pictures.count() == 10
        alts = pictures.evaluate_all("all => all.map(one => one.alt)")
        assert {*alts} == {f"{HOSTILE}: {name}" for name in CATS}
        assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        assert page.evaluate("document.querySelector('img').getBoundingClientRect().height") == 96
        answers = page.locator(".pictures details")
        assert answers.first.locator("li").first.is_visible() is False
        answers.first.locator("summary").press("Enter")  # by the keyboard
        assert answers.first.locator("li").count() == 5
        assert answers.first.locator("li").first.is_visible()


def test_numbers_of_the_report_link_to_their_images(
    browser: Browser, page_and_report: tuple[Path, Path]
) -> None:
    with opened(browser, page_and_report[1]) as page:
        assert page.locator("nav a", has_text="Images").get_attribute("href") == "../all%20images.html"
        page.locator("#numbers td[data-cell]").first.click()
        link = page.locator("#details dd a")
        assert link.get_attribute("href") == "../all%20images.html#images-0"
    target = page_and_report[0].read_text()
    assert 'id="images-0"' in target


def test_a_report_refuses_another_page_as_its_gallery(home: Path) -> None:
    (home / "other.html").write_text("<html></html>")
    for name, words in (
        ("other.html", "is not a page that `clipjax gallery` wrote"),
        ("none.html", "none.html"),
    ):
        arguments: list[Any] = [
            "report",
            home / "results",
            "--gallery",
            home / name,
            "--out",
            home / "r.html",
        ]
        done = CliRunner().invoke(cli.app, list(map(str, arguments)))
        assert isinstance(done.exception, ClipjaxError)
        assert words in str(done.exception)
        assert not (home / "r.html").exists()


def test_a_report_does_not_replace_its_gallery(home: Path, page_and_report: tuple[Path, Path]) -> None:
    page = page_and_report[0]
    before = page.read_bytes()
    arguments = ["report", page.parent / "results", "--gallery", page, "--out", page]
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert "the report would replace the gallery" in str(done.exception)
    assert page.read_bytes() == before


def test_thumbnails_are_as_large_as_asked(home: Path) -> None:
    Image.new("RGB", (400, 200), "red").save(home / "pets" / "cat" / "0.png")
    dataset = pets(home / "pets")
    run = add_run(home / "results", dataset, "a", ["cat/0.png"])
    page, _ = gallery(home, run, "--data", home / "pets", "--side", 64)
    [(_, _, pixels)] = thumbnails(page)
    assert pixels.shape == (32, 64, 3)
