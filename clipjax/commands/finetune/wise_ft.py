"""`clipjax wise-ft`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import typer

from clipjax.commands.finetune.changes import refuse_failed
from clipjax.commands.finetune.data_options import SuiteOptions, ValidationOptions
from clipjax.commands.finetune.wise_ft_curve import draw, measure, show
from clipjax.commands.shared.exclusions import refuse_without
from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import JsonOption
from clipjax.commands.shared.output import say
from clipjax.commands.shared.records import FieldsOf, with_options
from clipjax.commands.shared.stores import StoreOptions
from clipjax.embeddings.compute import Compute
from clipjax.errors import UsageError

if TYPE_CHECKING:
    from clipjax.checkpoints.model import Model
    from clipjax.data.labels import PromptSet
    from clipjax.finetune.data.splits import ValidationSplit


def register(app: typer.Typer) -> None:
    app.command("wise-ft")(with_options(WiseOptions, wise_ft))


@dataclass(frozen=True, kw_only=True)
class WiseOptions:
    PANELS: ClassVar = {
        "The new model": ("alphas", "prompts", "validation", "validation_dataset", "name"),
        "Evaluation": ("evaluate", "data_root", "reference"),
        "Speed and storage": ("store", "pixel_store", "pixel_budget"),
        "Output": ("out", "as_json"),
    }
    base: Annotated[str, typer.Argument(metavar="BASE", help="The pretrained model: id or folder.")]
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Folder of the model fine-tuned from BASE.")]
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the model and the sweep's results, or a URL.")
    ]
    alphas: Annotated[
        list[float] | None,
        typer.Option(
            "--alpha",
            min=0.0,
            max=1.0,
            help="Share of TUNED: 0 is BASE, 1 is TUNED; may be repeated. Default: 0, 0.1, ... 1.",
        ),
    ] = None
    prompts: Annotated[
        str | None, typer.Option(help="Prompt set of the zero-shot head; default: that of the fine-tuning.")
    ] = None
    held_out: ValidationOptions
    suite: SuiteOptions
    reference: Annotated[
        str | None,
        typer.Option(help="Data set for the figure's horizontal axis; default the first one named *_val."),
    ] = None
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the new model; default: after TUNED.")
    ] = None
    how: Annotated[dict[str, Any], FieldsOf(Compute, "workers")]
    stores: StoreOptions
    as_json: JsonOption = False

    def check(self) -> None:
        from clipjax.checkpoints.identity.naming import taken_names

        self.suite.check()
        self.held_out.check()
        if self.suite.evaluate is None:
            self._check_unevaluated()
        if self.name is not None and self.name in taken_names():
            raise UsageError(f"--name {self.name} is a published model: choose another name")
        _refuse_overwriting(self.folder / "model", self.base, self.tuned)

    def _check_unevaluated(self) -> None:
        refuse_without("--evaluate", {"--reference": self.reference})
        if self.held_out.validation is not None:
            return
        refuse_without("--validation or --evaluate", {"--pixel-store": self.stores.pixel_store})
        if len(alphas := self.alphas or ()) > 1:
            raise UsageError(
                f"--alpha {' --alpha '.join(f'{each:g}' for each in alphas)}: give the one to write, or "
                "--validation to choose by, or --evaluate to compare them"
            )

    @property
    def folder(self) -> Path:
        """May be a URL."""
        from clipjax.storage.remote.buckets import as_path

        return as_path(self.out)

    def compute(self) -> Compute:
        return self.stores.compute(**self.how, progress=False)


def wise_ft(options: WiseOptions) -> None:
    r"""Mix the weights of a model with those of its fine-tuned version (WiSE-FT).

    Writes OUT/model at one alpha: the best on --validation, else a single --alpha, else 0.5. With --evaluate,
    every alpha is evaluated and the curve is drawn.

    Examples:

        clipjax wise-ft vit_b_32-openai flyp/seed1/model --alpha 0.5 \
            --out wise

        clipjax wise-ft vit_b_32-openai ce/seed1/model --out wise \
            --evaluate robustness --data-root /data
    """
    check_names(models=(options.base,))
    from clipjax.finetune.wise_ft import ALPHAS

    options.check()
    out, alphas = options.folder, tuple(options.alphas or ALPHAS)
    compute, suite = options.compute(), options.suite.read()
    pair = _pair(options)
    alpha, choice = _choose(pair, alphas, options, compute)
    rows, failed, runs = [], [], 0
    if suite is not None:
        rows, failed, runs = measure(pair.base, pair.tuned, alphas, *suite, out / "results", compute)
    _write(pair, alpha, choice, options)
    figure = draw(rows, options.reference, alpha, out) if rows else []
    if options.as_json:
        say(json.dumps({"alpha": alpha, "model": str(out / "model"), "rows": rows}, indent=2))
    else:
        if rows and suite is not None:
            show(rows, alphas, suite[0])
            say("")
        if figure:
            say(f"figure: {', '.join(map(str, figure))}")
        say(f"alpha {alpha:g}: {out / 'model'}")
    refuse_failed(failed, runs)


def _refuse_overwriting(target: Path, base: str, tuned: str) -> None:
    """Raises UsageError if `target` is one of the two models, or a model that WiSE-FT did not make."""
    from clipjax.checkpoints.native import is_checkpoint, read_card_file
    from clipjax.storage.remote.buckets import as_path

    if not is_checkpoint(target):
        return
    lineage = read_card_file(target).record.get("lineage") or {}
    ends = {as_path(each).resolve() for each in (base, tuned)}
    if target.resolve() in ends or lineage.get("method") != "wise_ft":
        raise UsageError(f"{target} holds a model that WiSE-FT did not make: name another --out")


class _Pair(NamedTuple):
    base: Model
    tuned: Model
    prompts: PromptSet


def _pair(options: WiseOptions) -> _Pair:
    """Load BASE and TUNED. If TUNED is a classifier, a CLIP BASE becomes its zero-shot classifier."""
    from clipjax.checkpoints.load import load_model
    from clipjax.data.labels import DEFAULT_PROMPTS, load_prompts
    from clipjax.finetune.wise_ft import zero_shot_classifier
    from clipjax.heads.build import classifier_head

    base, tuned = load_model(options.base), load_model(options.tuned)
    recipe = (tuned.card.lineage or {}).get("recipe", {})
    prompts = load_prompts(options.prompts or recipe.get("prompts") or DEFAULT_PROMPTS)
    if (base.card.kind, tuned.card.kind) == ("zero_shot", "classifier"):
        base = zero_shot_classifier(base, classifier_head(tuned).label_space, prompts, progress=True)
    return _Pair(base, tuned, prompts)


def _choose(
    pair: _Pair, alphas: Sequence[float], options: WiseOptions, compute: Compute
) -> tuple[float, dict[str, Any]]:
    """The alpha to write, and how it was chosen: empty without --validation."""
    from clipjax.finetune.wise_ft import choose_alpha

    if (split := _validation(pair.tuned, options)) is None:
        return (alphas[0] if len(alphas) == 1 else 0.5), {}
    unstored = dataclasses.replace(compute, store=None)
    choice = choose_alpha(*pair[:2], split, prompts=pair.prompts, alphas=alphas, compute=unstored)
    say(f"chosen on {split.name}: alpha {choice.best:g}, accuracy {choice.accuracy:.4f}", err=True)
    seen = {"validation": split.name, "validation_digest": split.manifest.digest}
    return choice.best, seen | {"alphas": list(alphas), "alpha_accuracies": list(choice.tried)}


def _validation(tuned: Model, options: WiseOptions) -> ValidationSplit | None:
    """Images trained on are refused: there the fine-tuned model is best, whatever it has lost."""
    from clipjax.finetune.before_after import refuse_leaks
    from clipjax.finetune.data.splits import validation_split_of

    if (dataset := options.held_out.read()) is None:
        return None
    split = validation_split_of(dataset)
    trained_on = (tuned.card.lineage or {}).get("train", {}).get("digest")
    if dataset.card.split == "train" or trained_on == split.manifest.digest:
        raise UsageError(
            f"alpha cannot be chosen on {split.name}, images to train on: give others, --validation DIR"
        )
    if (suite := options.suite.read()) is not None:
        refuse_leaks([split], *suite)
    return split


def _write(pair: _Pair, alpha: float, choice: dict[str, Any], options: WiseOptions) -> None:
    from clipjax.finetune.wise_ft import interpolate

    model = interpolate(pair.base, pair.tuned, alpha)
    lineage = {**(model.card.lineage or {}), **({"chosen": choice} if choice else {})}
    card = dataclasses.replace(model.card, id=options.name or model.card.id, lineage=lineage)
    model.with_card(card).save(options.folder / "model")
