"""LP-FT: a linear probe, then end to end from its head.

Source: Kumar et al. 2022 (arXiv 2202.10054): a head that already fits the features distorts them less. The
probe has its own options and unaugmented images. Only the second phase chooses.
"""

from __future__ import annotations

import dataclasses

from clipjax.errors import UsageError
from clipjax.finetune.method import Method, Outline, Problem, Setup
from clipjax.finetune.methods import cross_entropy, linear_probe
from clipjax.finetune.training.solve import train


def prepare(setup: Setup) -> Problem:
    """Train the probe; return the second phase's problem.

    Raises:
        UsageError: as `probe_setup` and `initial_head`.
    """
    first = probe_setup(setup)
    params = train(linear_probe.probe(first), first, "probe").params
    return cross_entropy.end_to_end(setup, params["head"])


def probe_setup(setup: Setup) -> Setup:
    """Raises UsageError if the warm-up does not fit into the probe's steps."""
    options, recipe = setup.options, setup.recipe
    recipe = dataclasses.replace(
        recipe,
        epochs=options["probe_epochs"],
        steps=None,
        optimizer=dataclasses.replace(recipe.optimizer, learning_rate=options["probe_learning_rate"]),
        schedule=dataclasses.replace(recipe.schedule, warmup_steps=options["probe_warmup_steps"]),
        select=(),
        learning_rates=(),
    )
    probe = dataclasses.replace(setup, recipe=recipe)
    if recipe.schedule.name == "cosine" and recipe.schedule.warmup_steps >= probe.steps > 0:
        raise UsageError(
            f"options.probe_warmup_steps = {recipe.schedule.warmup_steps} does not fit into the probe's "
            f"{probe.steps} steps: set it lower, or options.probe_epochs higher"
        )
    return probe


def outline(setup: Setup) -> Outline:
    """The larger phase. Raises UsageError as `probe_setup`."""
    probe_setup(setup)
    return cross_entropy.outline(setup)


METHOD = Method(
    name="lp_ft",
    title="LP-FT",
    paper="Kumar et al. 2022 (arXiv 2202.10054)",
    options={
        **cross_entropy.METHOD.options,
        "probe_epochs": 10,
        "probe_learning_rate": 1e-3,
        "probe_warmup_steps": 500,
    },
    prepare=prepare,
    outline=outline,
)
