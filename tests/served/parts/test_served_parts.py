"""The parts of asking a server that need none: letters, pace, addresses, secrets, another model's answers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from clipjax.checkpoints.identity.model_reference import model_reference
from clipjax.errors import DataError, UsageError
from clipjax.served.address import KEY, TIMEOUT, server_address
from clipjax.served.asking import refuse_another
from clipjax.served.client import Client
from clipjax.served.identity import ServerIdentity, server_identity
from clipjax.served.letters import letters_of
from clipjax.served.pace import Pace
from clipjax.served.probe import ORDER, ServerProbe, picture, reads_pictures, refuse_other
from clipjax.served.replies import AnotherModelError, Reply, sampling_of
from clipjax.storage.remote.web import MayPass, pause_before

SECRET = "sk-very-secret"


def test_a_letter_with_and_without_a_space_is_one_and_a_missing_one_is_minus_infinity() -> None:
    top = [("A", -1.0), (" A", -2.0), ("B", -3.0), ("AB", -0.1), ("a", -0.1), ("  B", -0.1), ("D", -1.0)]
    found = letters_of(top, 3)
    np.testing.assert_allclose(found[:2], [np.log(np.exp(-1) + np.exp(-2)), -3.0], rtol=1e-6)
    assert np.isneginf(found[2])  # D is no option of three
    assert found.dtype == np.float32


def test_the_pace_grows_with_answers_and_is_halved_once_for_requests_of_one_moment() -> None:
    pace = Pace(8)
    assert pace.limit == 4
    for _ in range(100):
        pace.answered()
    assert pace.limit == 8
    before = 0.0  # sent long ago
    pace.busy(1e18, None)
    assert pace.limit == 4
    pace.busy(before, None)  # was under way at the halving
    assert pace.limit == 4
    for _ in range(9):
        pace.busy(1e18, None)
    assert pace.limit == 1
    assert Pace(2).limit == 2


def test_everybody_rests_as_long_as_the_server_asks() -> None:
    pace = Pace()
    assert pace.rest == 0
    pace.busy(0, 30.0)
    pace.busy(0, 5.0)
    assert 29 < pace.rest <= 30


def test_pauses_double_with_jitter_and_are_longer_than_the_server_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert [pause_before(attempt, None, 0.5) for attempt in (2, 3, 4)] == [0.5, 1, 2]
    assert pause_before(2, 7.0, 0.5) == 7.25
    monkeypatch.setattr(random, "uniform", lambda low, high: low)
    assert pause_before(3, None, 0.5) == 0.5


def test_an_address_and_a_model() -> None:
    assert server_address("http://127.0.0.1:8000/v1/#org/name:tag") == (
        "http://127.0.0.1:8000/v1",
        "org/name:tag",
    )
    reference = model_reference("server:https://host/v1")
    assert (reference.kind, reference.value) == ("server", "https://host/v1")
    assert str(model_reference("server:http://h/v1#m")) == "server:http://h/v1#m"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server:", "name a server's model"),
        ("server:ftp://host/v1#m", "name a server's model"),
        ("server:http://:80/v1#m", "name a server's model"),
        ("server:http://host:port/v1#m", "name a server's model"),
        ("server:http://host/v1 #m", "name a server's model"),
        (f"server:http://me:{SECRET}@host/v1#m", KEY),
        (f"server:http://{SECRET}@host/v1#m", KEY),
        (f"server:http://host/v1?key={SECRET}#m", KEY),
        (f"server:http://host/v1#m?key={SECRET}", KEY),
        (f"server:http://[{SECRET}/v1#m", "name a server's model"),
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_quoted(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refusal:
        model_reference(text)
    assert SECRET not in str(refusal.value)


def test_a_key_or_a_time_that_is_none_is_refused_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, f"{SECRET}\nnext")
    with pytest.raises(UsageError, match=KEY) as refusal:
        Client("http://127.0.0.1:9/v1")
    assert SECRET not in str(refusal.value)
    monkeypatch.setenv(KEY, SECRET)
    for wrong in ("soon", "0", "-1", "nan"):
        monkeypatch.setenv(TIMEOUT, wrong)
        with pytest.raises(UsageError, match=f"{TIMEOUT} is '{wrong}', should be a number of seconds"):
            Client("http://127.0.0.1:9/v1")
    monkeypatch.setenv(TIMEOUT, "2.5")
    assert SECRET not in repr(vars(Client("http://127.0.0.1:9/v1"))["address"])


def test_the_folders_of_the_servers_machine_are_in_no_name() -> None:
    names = ["/home/me/w.Q4_1.gguf", "org/name", "C:\\models\\w.gguf", "./here/w", "llava:7b"]
    assert [ServerIdentity("x", name).name for name in names] == [
        "w.Q4_1.gguf",
        "org/name",
        "w.gguf",
        "w",
        "llava:7b",
    ]
    assert "home" not in str(ServerIdentity("x", names[0]).record())


def test_another_build_or_another_file_of_one_name_is_named() -> None:
    before = ServerIdentity("vllm", "m", "0.33.0", facts={"root": "a"}, slots=4)
    refuse_another(ServerIdentity("vllm", "m", "0.33.0", facts={"root": "a"}, slots=2), before)
    for now, name in (
        (ServerIdentity("vllm", "m", "0.34.0", facts={"root": "a"}), "build is '0.34.0', and was '0.33.0'"),
        (ServerIdentity("vllm", "m", "0.33.0", facts={"root": "b"}), "facts is"),
    ):
        with pytest.raises(AnotherModelError, match=name):
            refuse_another(now, before)


def test_rounding_is_no_other_model_but_other_numbers_are() -> None:
    before = Reply("A", (("A", -0.5), ("B", -1.5), ("zz", -9.0)))
    refuse_other(Reply("B", (("A", -0.6), ("B", -1.45), ("zz", -8.0))), before)  # unlikely tokens move more
    with pytest.raises(AnotherModelError, match=r"by 1\.5 in log-probability"):
        refuse_other(Reply("A", (("A", -2.0), ("B", -1.5))), before)
    with pytest.raises(AnotherModelError, match="by inf"):
        refuse_other(Reply("A", (("x", -2.0),)), before)
    refuse_other(Reply("other", None), before)  # a text alone may differ by one rounded bit
    assert ServerProbe(before, before).repeatable
    assert not ServerProbe(before, Reply("A", (("A", -0.5000001),))).repeatable


def letters(a: float, text: str = "A") -> Reply:
    return Reply(text, (("A", a), ("B", -1.5)))


def test_noise_alone_is_no_reading_of_pictures() -> None:
    """A server of texts alone whose answers vary passes about once in 126."""
    rng = np.random.default_rng(0)
    passed = sum(reads_pictures([letters(x) for x in rng.normal(-1, 0.1, len(ORDER))]) for _ in range(500))
    assert passed <= 12  # 4 expected
    passed = sum(
        reads_pictures([Reply(str(x), None) for x in rng.integers(0, 2, len(ORDER))]) for _ in range(500)
    )
    assert passed <= 12


@pytest.mark.parametrize(
    "values",
    [
        [-1.0] * 10,
        [-0.5] + [-1.0] * 9,  # a cold start
        [-1.0, -1.1] * 5,  # two machines in turn
        list(np.linspace(-0.5, -1.4, 10)),
    ],
)
def test_what_the_order_of_requests_changes_is_no_reading_of_pictures(values: list[float]) -> None:
    assert not reads_pictures([letters(x) for x in values])


def test_pictures_are_read_also_with_noise() -> None:
    rng = np.random.default_rng(0)
    assert reads_pictures([letters(-0.5 - 1e-4 * k) for k in ORDER])
    for _ in range(200):
        noise = rng.normal(0, 0.1, len(ORDER))
        assert reads_pictures([letters(-1.5 + k + x) for k, x in zip(ORDER, noise)])
    texts = ["red" if k == 0 else "blue" for k in ORDER]
    assert reads_pictures([Reply(text, None) for text in texts])
    texts[3] = "red."  # one answer in other words
    assert reads_pictures([Reply(text, None) for text in texts])
    assert reads_pictures([Reply("", ((f"token {k}", -0.1),)) for k in ORDER])  # nothing in common


def test_threads_share_connections_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread takes the last one between a look and a grip."""

    class Taken(list):  # type: ignore[type-arg]
        def __bool__(self) -> bool:
            return True

    client = Client("http://127.0.0.1:9/v1")
    monkeypatch.setattr(client, "_idle", Taken())
    with pytest.raises(MayPass):
        client.get("models")


def test_the_drawn_pictures_differ_and_are_always_the_same() -> None:
    assert picture(0) == picture(0) != picture(1)


def test_only_llama_cpp_is_told_not_to_use_its_cache() -> None:
    assert sampling_of("llama.cpp")["cache_prompt"] is False
    assert "cache_prompt" not in sampling_of("vllm") | sampling_of("unknown")
    assert sampling_of("vllm")["repetition_penalty"] == 1.0
    assert sampling_of("unknown")["temperature"] == 0


class _Listing(Client):
    """Of a server that lists these models."""

    def __init__(self, *models: dict[str, Any]) -> None:
        super().__init__("http://h:1/v1")
        self.models = models

    def get(self, path: str) -> Any:
        return {"data": self.models} if path == "models" else {}


def test_the_end_of_two_models_paths_names_neither() -> None:
    two = {"id": "/a/narrow"}, {"id": "/b/narrow"}
    with pytest.raises(DataError, match=r"narrow is the end of /a/narrow, /b/narrow: give the whole name"):
        server_identity(_Listing(*two), "narrow")
    assert server_identity(_Listing(*two), "/b/narrow").model == "/b/narrow"
    assert server_identity(_Listing(*two, {"id": "narrow"}), "narrow").model == "narrow"


def test_one_adapter_on_two_bases_of_vllm_is_two_models() -> None:
    entry = {"id": "lora", "owned_by": "vllm", "root": "/adapters/lora"}
    one, other, none = (
        server_identity(_Listing(entry | parent), "lora").record()
        for parent in ({"parent": "base-7b"}, {"parent": "base-13b"}, {"parent": None})
    )
    assert one != other
    assert "parent" not in none["facts"]


def test_the_word_server_is_written_small() -> None:
    with pytest.raises(UsageError, match="write server: in small letters"):
        model_reference("Server:http://h:1/v1")
