"""Servers that fail: what is retried, what ends a run, and that nothing but an answer counts as one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from _asked_world import evaluated, write_world
from _fake_model import Served
from _fake_server import BROKEN, CUT, DROP, NO_CHOICES, PAGE, FakeServer, Fault

from clipjax.evaluation.rows import Result
from clipjax.served import retries
from clipjax.served.probe import ORDER

N, PROBE = 8, len(ORDER)  # images; requests of a probe
BIASED = Served(bias={"A": 1.0, "B": 0.5})


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path / "world", N)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.002)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run without faults."""
    with FakeServer("sglang", BIASED) as server:
        result = evaluated(write_world(tmp_path_factory.mktemp("clean") / "world", N), server.name)
        assert len(server.chats) == PROBE + N + 1  # and once more at the end: is it the same server?
    return result


def told(result: Result) -> Any:
    """What decides the numbers: answers and choices of all images."""
    names = [name for name in result.images.column_names if name.startswith(("answer", "choice", "correct"))]
    return result.images.select(names).to_pydict()


def changed(**fields: Any) -> Fault:
    return Fault(change=lambda answer: answer | fields)


def message(content: Any) -> Fault:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return changed(choices=[choice])


RETRIED = {
    "the connection breaks before the answer": DROP,
    "the connection breaks in the answer": CUT,
    "half of the JSON": BROKEN,
    "no choices": NO_CHOICES,
    "a page of a proxy": PAGE,
    "a page that says 200": Fault(body=b"<html>Sign in</html>"),
    "a list": Fault(body=b"[]"),
    "an error that says 200": Fault(body=b'{"error": {"message": "out of memory", "code": 500}}'),
    "no text": message(None),
    "500": Fault(500),
    "503": Fault(503),
    "429": Fault(429),
    "429 with a time": Fault(429, retry_after="0"),
    "another request's id": Fault(request_id="0" * 32),
    "two choices": Fault(change=lambda answer: answer | {"choices": answer["choices"] * 2}),
    "more tokens than asked for": changed(usage={"completion_tokens": 900}),
}


@pytest.mark.parametrize("kind", RETRIED)
def test_a_fault_is_no_answer(world: Path, clean: Result, kind: str) -> None:
    faults = [None] * PROBE + [RETRIED[kind], None, RETRIED[kind], RETRIED[kind]]
    with FakeServer("sglang", BIASED, faults=faults) as server:
        result = evaluated(world, server.name)
        assert told(result) == told(clean)
        assert [row["value"] for row in result.rows] == [row["value"] for row in clean.rows]
        assert len(server.chats) == PROBE + N + 1 + 3
    asked = [chat.image.tobytes() for chat in server.chats[PROBE:-1] if chat.image is not None]
    assert len(asked) == N + 3
    assert len(set(asked)) == N


def test_the_answer_to_another_request_is_no_answer(world: Path, clean: Result) -> None:
    """Several chats are under way, so it may come before the right one; vLLM's ids are those of requests."""
    swapped = [Fault(of_last=True), None, Fault(of_last=True), Fault(of_last=True)]
    served = dataclasses.replace(BIASED, likelihoods=False)
    with FakeServer("vllm", served, faults=[*[None] * (PROBE + 1), *swapped], delay=0.01) as server:
        assert told(evaluated(world, server.name)) == told(clean)
        assert len(server.chats) == PROBE + 1 + N + 1 + 3


def test_an_answer_that_was_there_before_is_no_answer(world: Path, clean: Result) -> None:
    """One chat at a time; the answer's own id tells, as the server repeats no request's."""
    served = dataclasses.replace(BIASED, slots=1)
    again = [Fault(of_last=True), None] * 3
    with FakeServer("llama.cpp", served, faults=[*[None] * PROBE, *again]) as server:
        assert told(evaluated(world, server.name)) == told(clean)
        assert len(server.chats) == PROBE + N + 1 + 3


def test_the_servers_own_wait_is_kept(world: Path) -> None:
    faults = [None] * PROBE + [Fault(429, retry_after="1")]
    with FakeServer("sglang", BIASED, faults=faults) as server:
        evaluated(world, server.name)
        refused = server.chats[PROBE]
        before = [chat for chat in server.chats[PROBE:] if chat.when < refused.when + 1]
        assert len(before) <= 6  # those that were under way: nothing else comes for a second
        [again] = [chat for chat in server.chats[PROBE + 1 :] if chat.files == refused.files]
        assert again.when > refused.when + 1
        assert len(server.chats) == PROBE + N + 1 + 1


def test_an_answer_that_takes_too_long_is_asked_for_again(
    world: Path, clean: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPJAX_SERVER_TIMEOUT", "1")
    with FakeServer("sglang", BIASED, faults=[None] * PROBE + [Fault(delay=20)]) as server:
        assert told(evaluated(world, server.name)) == told(clean)
        assert len(server.chats) > PROBE + N + 1


def test_a_server_with_little_room_gets_fewer_requests_at_once(world: Path, tmp_path: Path) -> None:
    """Two at once are served; the client learns that, and refusals become rare."""
    many = write_world(tmp_path / "many", 40)
    with FakeServer("sglang", BIASED, capacity=2, delay=0.005) as server:
        result = evaluated(many, server.name)
        assert len(result.images) == 40
        refusals = len(server.chats) - len(server.answered)
        assert 0 < refusals < 40
        late = [chat.at for chat in server.chats if chat.at > len(server.chats) // 2]
        assert len(set(late) & set(server.answered)) > 0.6 * len(late)
        assert server.most_at_once <= 5


def test_a_server_that_answers_gets_more_requests_at_once(world: Path, tmp_path: Path) -> None:
    many = write_world(tmp_path / "many", 60)
    with FakeServer("sglang", BIASED, delay=0.1) as server:
        evaluated(many, server.name)
        assert 6 <= server.most_at_once <= 32
