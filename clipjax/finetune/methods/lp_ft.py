"""LP-FT: a linear probe, then end to end from its head.

Source: Kumar et al. 2022 (arXiv 2202.10054): fine-tuning from a head that fits the frozen features already
distorts them less. Both phases follow the recipe; the probe has its own epochs, learning rate and warm-up,
and sees the images without augmentation.
"""

from __future__ import annotations

import dataclasses

from clipjax.finetune.method import Method, Problem, Setup
from clipjax.finetune.methods import cross_entropy, linear_probe
from clipjax.finetune.training import train


def prepare(setup: Setup) -> Problem:
    """Trains the probe (its resume points lie in the sub-folder "probe"), and states the second problem.

    Raises:
        UsageError: a probe's warm-up that does not fit into its steps, and as `linear_probe.prepare`.
    """
    first = probe_setup(setup)
    params = train(linear_probe.probe(first), first, "probe").params
    return cross_entropy.end_to_end(setup, params["head"])


def probe_setup(setup: Setup) -> Setup:
    """The set-up of the probe: the recipe with the options probe_* in their places."""
    options, recipe = setup.options, setup.recipe
    recipe = dataclasses.replace(
        recipe,
        epochs=options["probe_epochs"],
        steps=None,
        optimizer=dataclasses.replace(recipe.optimizer, learning_rate=options["probe_learning_rate"]),
        schedule=dataclasses.replace(recipe.schedule, warmup_steps=options["probe_warmup_steps"]),
    )
    return dataclasses.replace(setup, recipe=recipe)


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
    outline=cross_entropy.outline,  # of the larger phase
)
