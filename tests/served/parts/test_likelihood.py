"""Likelihoods of options from a server's log-probabilities of its prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from _asked_world import write_world
from _fake_server import FakeServer, Fault

from clipjax.evaluation.evaluate import evaluate
from clipjax.evaluation.rows import Result
from clipjax.results.row import ServedBy
from clipjax.served.likelihood import likelihood_of
from clipjax.storage.store import Store


def prompt(*tokens: tuple[str, float]) -> dict[str, object]:
    listed = [{str(k): {"decoded_token": text, "logprob": x}} for k, (text, x) in enumerate(tokens)]
    return {"prompt_logprobs": [None, *listed]}


def test_the_last_tokens_of_the_prompt_are_the_options() -> None:
    answer = prompt(("bottle", -9.0), (":", -8.0), (" wine", -1.0), (" bot", -0.5), ("tle", -0.25))
    assert likelihood_of(answer, "wine bottle") == (-1.75, 3)
    assert likelihood_of(answer, "tle") == (-0.25, 1)


def evaluated(world: Path, model: str, rotations: str = "given") -> Result:
    data = {"dataset": str(world / "patches.toml"), "root": world / "data", "store": world / "store"}
    how = {"rotations": rotations, "steps": 4, "resamples": 50, "progress": False}
    return evaluate(model, "multiple_choice", **data, **how)


def served_by(result: Result) -> ServedBy:
    server = result.rows[0].get("server")
    assert server is not None
    return server


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"prompt_logprobs": None},
        prompt((" wine", -1.0), (" bottle", -1.0), ("<end>", -1.0)),  # the template ends the turn
        prompt((" bottle", -1.0)),
        prompt((" wine", float("-inf")), (" bottle", -1.0)),
    ],
)
def test_other_last_tokens_give_none(answer: dict[str, object]) -> None:
    assert likelihood_of(answer, "wine bottle") is None


def test_a_server_that_gives_them_has_the_rules_of_texts(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world", 4)
    with FakeServer("vllm") as server:
        result = evaluated(world, server.name, rotations="all")
        asked = [chat for chat in server.chats if chat.prefix]
        assert len(asked) == 1 + 4 * 4 * 4  # of the probe, then images, orders, options
        assert evaluated(world, server.name, rotations="all").rows[0]["value"] == result.rows[0]["value"]
        assert len([chat for chat in server.chats if chat.prefix]) == len(asked)  # all were stored
        scores = {}
        for chat in asked[1:]:
            words = chat.prefix.split()
            scores[(chat.files[0], chat.text, chat.prefix)] = sum(
                server.model._score(chat, f"{chat.prefix}|{k}") - 8 for k in range(len(words))
            )
        pictures = sorted({key[0] for key in scores}, key=lambda file: [key[0] for key in scores].index(file))
    assert served_by(result)["prompt_logprobs"] is True
    assert {"top1@text", "top1@text_per_token"} <= {row["metric"] for row in result.rows}
    chosen = result.images["choice_text"].to_pylist()
    options = result.images["options"].to_pylist()
    best = {}
    for (file, _, option), score in scores.items():
        best.setdefault(file, {})[option] = score
    expected = sorted(max(best[file], key=best[file].__getitem__) for file in pictures)
    assert sorted(own[k[0]] for own, k in zip(options, chosen)) == expected
    assert np.shape(chosen) == (4, 4)
    # The fake's options keep their scores in every order, so an order in the wrong direction is seen.
    letters = np.array(result.images["choice_letter"].to_pylist())
    assert (letters == letters[:, :1]).all()
    assert (letters >= 0).all()


def test_a_server_without_them_has_not_and_a_killed_run_does_not_mix(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world", 3)
    without = Fault(change=lambda answer: {k: v for k, v in answer.items() if k != "prompt_logprobs"})
    with FakeServer("vllm", always=without) as server:
        result = evaluated(world, server.name)
        metrics = {row["metric"] for row in result.rows}
        assert served_by(result)["prompt_logprobs"] is False
        assert not any(metric.endswith(("@text", "@text_per_token")) for metric in metrics)
        [top1] = [row for row in result.rows if row["metric"] == "top1"]
        assert "no text, text_per_token: their log-probabilities are not known" in str(top1["note"])
    [entry] = Store(world / "store").ls()
    assert entry.shards == 4  # the probe and an image each
