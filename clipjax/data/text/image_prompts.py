"""Prompts: the text with a question about an image that a language model continues.

    image_prompt("mistral_instruct").text("What is this?")     # "[INST] What is this? [/INST]"

A form is a file of configs/chat_templates with one key, `prompt`.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipjax.config import config_dir
from clipjax.guards import known_name
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read

IMAGE, QUESTION = "{image}", "{question}"
IMAGE_WORD = "<image>"  # people write it into questions; Prismatic takes it out


@dataclass(frozen=True)
class ImagePrompt:
    """One turn of a chat.

    Attributes:
        prompt: with "{question}" once and "{image}" at most once. Without "{image}" the image comes first,
            after the token that begins a text.

    Raises:
        ValueError: "{question}" is missing, or comes before "{image}".
    """

    prompt: str

    def __post_init__(self) -> None:
        before, *after = self.prompt.split(QUESTION)
        if len(after) != 1 or IMAGE in after[0] or before.count(IMAGE) > 1:
            raise ValueError(
                f"prompt = {self.prompt!r}: write {QUESTION} once, and {IMAGE} before it or not at all"
            )

    @property
    def names_image(self) -> bool:
        return IMAGE in self.prompt

    def parts(self, question: str) -> tuple[str, str]:
        """The texts before and after the image. The question's own spaces around it are left out."""
        question = question.replace(IMAGE_WORD, "").strip()
        before, after = self.prompt.split(IMAGE) if self.names_image else ("", self.prompt)
        return before, after.replace(QUESTION, question)

    def text(self, question: str) -> str:
        return "".join(self.parts(question))


def template_names() -> list[str]:
    return sorted(path.stem for path in (config_dir() / "chat_templates").glob("*.toml"))


def image_prompt(name: str) -> ImagePrompt:
    """Raises UsageError for an unknown name, DataError for a damaged file."""
    known_name("chat template", name, template_names())
    path = config_dir() / "chat_templates" / f"{name}.toml"
    return read(ImagePrompt, read_toml(path), path)
