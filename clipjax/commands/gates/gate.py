"""`clipjax gate MODEL`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from clipjax.commands.gates.gate_options import PANELS, Conditions, GateOptions, as_model, show
from clipjax.commands.shared.output import say
from clipjax.commands.shared.records import with_options
from clipjax.devices import signals


def register(app: typer.Typer) -> None:
    app.command("gate")(with_options(OneOptions, gate))


@dataclass(frozen=True, kw_only=True)
class OneOptions:
    PANELS: ClassVar = PANELS
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The checkpoint: a name or path as for `clipjax sweep`.")
    ]
    conditions: Conditions
    shared: GateOptions


def gate(options: OneOptions) -> None:
    r"""Let a checkpoint pass if it is shown to be no worse than a pinned reference, by a margin.

    Both models run on the suite, and images are decoded once. Each condition is a one-sided test on the same
    images. All checkpoints that are judged with one --out share alpha; each is judged once. Exit codes: 0
    pass, 3 a condition fails, 4 too few images to tell (the message states how many are needed), 1 and 2 as
    everywhere, 75 interrupted: the same command goes on.

    Examples:

        clipjax gate flyp/seed1/model "not_worse(top1, 0.005)" \
            --against vit_b_32-openai --suite suite:table1 --data-root /data

        clipjax gate epoch_3 "not_worse(top1, 0.005) on imagenet_val" \
            "better(top1, 0.01) on imagenet_r" --against vit_b_32-openai \
            --suite mine.toml --planned 10 --out gate
    """
    shared = options.shared
    judge = shared.gate(options.conditions)
    from clipjax.gates.gate import raise_unless_passed

    judgement, is_new = judge.judge(as_model(options.model), shared.compute())
    signals.done()
    if shared.as_json:
        say(json.dumps(dataclasses.asdict(judgement), indent=1))
    else:
        show(judgement, is_new=is_new)
    raise_unless_passed(judgement)
