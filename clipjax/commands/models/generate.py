"""`clipjax generate MODEL PROMPT...`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from clipjax.commands.shared.options import JsonOption
from clipjax.commands.shared.output import say
from clipjax.commands.shared.processes import say_slow
from clipjax.commands.shared.records import with_options
from clipjax.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command("generate")(with_options(GenerateOptions, generate))


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Llama or Mistral model: a GGUF file, a folder of transformers (config.json, weights, "
            "tokenizer), a hub repository, or the URL of such a file or folder.",
        ),
    ]
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="Texts to continue; quote each.")
    ] = None
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="More prompts: a text file, one prompt a line.")
    ] = None
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Each prompt is a user's message, written as the model's chat template has it."
        ),
    ] = False
    steps: Annotated[
        int, typer.Option(min=1, help="Tokens of an answer at most; the model may end it earlier.")
    ] = 128
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0, help="0: the likeliest token each time. Above 0: drawn, the more freely the higher."
        ),
    ] = 0.0
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws, with --temperature.")] = 0
    precision: Annotated[
        Literal["parity", "fast"],
        typer.Option(help="parity: float32. fast: weights and cache in bfloat16, in half the memory."),
    ] = "parity"
    as_json: JsonOption = False

    def check(self) -> None:
        if not self.prompts and self.file is None:
            raise UsageError("there is nothing to continue: give a prompt, or --file with one per line")


def generate(options: GenerateOptions) -> None:
    r"""Continue texts, or answer messages, with a language model.

    A model that was trained to follow instructions (its name often ends in Instruct or Chat) expects --chat;
    without it, the text is continued as a text. Each prompt is answered as if it were alone, and the same
    command gives the same answers.

    Examples:

        clipjax generate SmolLM2-135M-Instruct.Q4_1.gguf \
            "The capital of France is" --steps 8

        clipjax generate SmolLM2-135M-Instruct.Q4_1.gguf \
            --chat "What is 2 + 2?"

        clipjax generate llama-2-7b-chat --chat --file questions.txt \
            --precision fast --json
    """
    from clipjax.checkpoints.language import load_language_model
    from clipjax.storage.reading import read_lines
    from clipjax.storage.remote.buckets import as_path

    options.check()
    prompts = [*(options.prompts or []), *(read_lines(as_path(options.file)) if options.file else [])]
    if not prompts:
        raise UsageError(f"{options.file} has no prompt: write one per line")
    say_slow(options.precision)
    model = load_language_model(
        options.model, dtype="float32" if options.precision == "parity" else "bfloat16"
    )
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts] if options.chat else prompts
    answers = model.generate(asked, steps=options.steps, temperature=options.temperature, seed=options.seed)
    if options.as_json:
        pairs = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers)]
        say(json.dumps(pairs, indent=1, ensure_ascii=False))
        return
    for prompt, answer in zip(prompts, answers):
        if len(prompts) > 1:
            say(f"> {prompt}")
        say(answer.strip() if options.chat else f"{prompt}{answer}" if len(prompts) == 1 else answer)
