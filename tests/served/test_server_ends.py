"""Servers that stop, are another one, or have a secret: how a run ends, and how the next one goes on."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
from _asked_world import evaluated, server_of, write_world
from _fake_model import Chat, Served
from _fake_server import FakeServer, Fault
from _file_server import Content, FileServer

from clipjax import cli
from clipjax.errors import ClipjaxError, DataError
from clipjax.results.store import ResultStore
from clipjax.served import asking, retries
from clipjax.served.client import Client
from clipjax.served.identity import ServerIdentity
from clipjax.served.probe import ORDER
from clipjax.storage.remote.web import MayPass

N, PROBE = 12, len(ORDER)  # images; requests of a probe
AFTER = 1  # a last request: is it the same model still?
KEY = "sk-Zq9-very-secret"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path / "world", N)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(retries, "ATTEMPTS", 2)


def image_of(chat: Chat) -> bytes | None:
    return None if chat.image is None else chat.image.tobytes()


def pictured(chats: Iterable[Chat], world: Path) -> list[int]:
    """The images of the world that these chats ask about, in their order; without those of probes."""
    names = {}
    for i in range(N):
        with PIL.Image.open(world / "data" / f"{i:03d}.png") as image:
            names[np.asarray(image.convert("RGB")).tobytes()] = i
    return [names[data] for chat in chats if (data := image_of(chat)) in names]


def no_rows(world: Path) -> bool:
    return not (world / "runs").exists() or not list(ResultStore(world / "runs").rows())


def one_sentence(error: pytest.ExceptionInfo[ClipjaxError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 700
    return text


def test_failures_in_a_row_end_a_run_and_the_next_goes_on(world: Path) -> None:
    """After three answers all requests fail."""
    with FakeServer("sglang", faults=[None] * (PROBE + 3), always=Fault(500)) as server:
        with pytest.raises(DataError, match="5 images in a row") as error:
            evaluated(world, server.name)
        text = one_sentence(error)
        assert "500" in text
        assert text.count(".png") == 5
        assert "run the same command again" in text
        done = pictured([server.chats[at] for at in server.answered], world)
        assert len(done) == 3
        assert no_rows(world)
        server.always, before = None, len(server.chats)
        result = evaluated(world, server.name)
        again = pictured(server.chats[before:], world)
        assert set(again) == set(range(N)) - set(done)
        assert len(result.images) == N
    with FakeServer("sglang") as server:
        whole = evaluated(world, server.name, store="another")
    assert whole.images.column("answers").to_pylist() == result.images.column("answers").to_pylist()


def refused_pictures(world: Path, rows: Iterable[int]) -> Callable[[Chat], Fault | None]:
    """A server that refuses these images of the world for good."""
    return lambda chat: Fault(400) if set(pictured([chat], world)) & set(rows) else None


def test_an_image_without_an_answer_is_named_or_left_out(world: Path) -> None:
    with FakeServer("sglang", spoils=refused_pictures(world, [4, 7])) as server:
        with pytest.raises(DataError, match="2 images of 12 without an answer") as error:
            evaluated(world, server.name)
        text = one_sentence(error)
        assert "004.png" in text
        assert "007.png" in text
        assert "--on-error skip" in text
        assert no_rows(world)
        before = len(server.chats)
        result = evaluated(world, server.name, on_error="skip")
        assert set(pictured(server.chats[before:], world)) == {4, 7}
        assert result.images.column("id").to_pylist() == [f"{i:03d}.png" for i in range(N) if i not in (4, 7)]
        assert result.rows[0]["n"] == N - 2
        assert result.rows[0]["skipped"] == 2
        server.spoils = lambda chat: None
        assert len(evaluated(world, server.name).images) == N


def test_failures_apart_end_no_run(world: Path) -> None:
    """One chat at a time, so their order is known: six images fail, never two in a row."""
    odd = refused_pictures(world, range(1, N, 2))
    with FakeServer("llama.cpp", Served(slots=1), spoils=odd) as server:
        result = evaluated(world, server.name, on_error="skip")
        assert result.rows[0]["skipped"] == N // 2
        assert server.most_at_once == 1


def test_an_image_that_cannot_be_read_is_no_failure_of_the_server(world: Path) -> None:
    (world / "data" / "002.png").write_bytes(b"no picture")
    with FakeServer("sglang") as server:
        with pytest.raises(DataError, match=r"002\.png"):
            evaluated(world, server.name)
        assert evaluated(world, server.name, on_error="skip").rows[0]["skipped"] == 1


def test_another_model_half_way_ends_the_run(world: Path) -> None:
    """Under the same name; SGLang does not tell which weights it has."""
    with FakeServer("sglang", later={PROBE + 6: Served(seed=1)}) as server:
        with pytest.raises(DataError, match="the server was changed during the run") as error:
            evaluated(world, server.name)
        one_sentence(error)
        assert no_rows(world)
        # It is still there: what the first one answered is not its.
        with pytest.raises(DataError, match="the stored answers are by another model") as error:
            evaluated(world, server.name)
        one_sentence(error)
        server.served = Served()
        result = evaluated(world, server.name)
    with FakeServer("sglang") as server:
        alone = evaluated(world, server.name, store="alone")
    assert result.images.column("answers").to_pylist() == alone.images.column("answers").to_pylist()


def test_a_busy_moment_while_the_server_is_checked_ends_no_run(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request for the list is that of the beginning, the next one that of the end."""
    monkeypatch.setattr(retries, "ATTEMPTS", 4)
    with FakeServer("sglang", listing=[None, Fault(503), Fault(429), Fault(500)]) as server:
        assert len(evaluated(world, server.name).images) == N
        assert server.listing == []
    with FakeServer("sglang", listing=[None, *[Fault(503)] * 4]) as server:
        with pytest.raises(DataError, match="503"):
            evaluated(world, server.name, store="another")
        assert server.listing == []


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("llama.cpp", Served(build="b7000-00000000")),
        ("llama.cpp", Served(quantisation="Q8_0")),
        ("llama.cpp", Served(seed=3)),  # another number of parameters
        ("ollama", Served(seed=3)),  # another digest
        ("ollama", Served(quantisation="Q8_0")),
        ("sglang", Served(quantisation="fp8")),
        ("sglang", Served(id="narrow-vl-2")),
    ],
)
def test_what_a_server_tells_keeps_answers_apart(world: Path, kind: str, changed: Served) -> None:
    """A store of one model's answers is not another's."""
    with FakeServer(kind) as server:
        assert evaluated(world, server.name).stats.forward_passes == N
        assert evaluated(world, server.name).stats.forward_passes == 0
        # Where no digest of the weights is told, a drawn picture tells whether it is the same model.
        assert len(server.chats) == PROBE + N + AFTER + (kind != "ollama")
        server.served = changed
        assert evaluated(world, server.name).stats.forward_passes == N


def test_the_address_keeps_no_answers_apart(world: Path) -> None:
    with FakeServer("llama.cpp") as server:
        first = evaluated(world, server.name)
    with FakeServer("llama.cpp") as server:
        again = evaluated(world, server.name)
        assert again.stats.forward_passes == 0
        assert pictured(server.chats, world) == []
    assert again.rows[0]["recipe_hash"] == first.rows[0]["recipe_hash"]


def test_stored_answers_of_another_model_of_the_same_name_are_refused(world: Path) -> None:
    """The server tells nothing that would tell the two apart."""
    with FakeServer("sglang") as server:
        evaluated(world, server.name)
        server.served = Served(seed=5)
        with pytest.raises(DataError, match="stored answers are by another model of this name") as error:
            evaluated(world, server.name)
        one_sentence(error)


TEXT_ONLY = {
    "the server says so": ("llama.cpp", Served(vision="refuses")),
    "it refuses pictures": ("vllm", Served(vision="refuses")),
    "ollama says so": ("ollama", Served(vision="refuses")),
    "it ignores pictures": ("vllm", Served(vision="ignores")),
    "it ignores pictures and gives no log-probabilities": (
        "plain",
        Served(vision="ignores", logprobs="absent"),
    ),
}


@pytest.mark.parametrize("how", TEXT_ONLY)
def test_a_model_of_texts_alone_is_refused(world: Path, how: str) -> None:
    kind, served = TEXT_ONLY[how]
    with FakeServer(kind, served) as server:
        with pytest.raises(DataError, match="texts alone") as error:
            evaluated(world, server.name)
        one_sentence(error)
        assert pictured(server.chats, world) == []
        assert no_rows(world)


@pytest.mark.parametrize("how", ["absent", "refused"])
def test_without_log_probabilities_their_rules_are_left_out(world: Path, how: str) -> None:
    with FakeServer("plain", Served(logprobs=how)) as server:
        result = evaluated(world, server.name, rotations="all")
    metrics = {row["metric"] for row in result.rows}
    assert {"top1", "top1@parsed", "top1_debiased@parsed"} <= metrics
    assert not [name for name in metrics if name.endswith(("@letter", "@text", "@text_per_token"))]
    assert server_of(result)["logprobs"] is False
    assert any("letter" in (row["note"] or "") for row in result.rows)  # named


def test_a_noisy_model_of_texts_alone_is_refused(world: Path) -> None:
    with (
        FakeServer("vllm", Served(vision="ignores", noise=0.1)) as server,
        pytest.raises(DataError, match="no more than the same one asked again"),
    ):
        evaluated(world, server.name)


def test_answers_with_and_without_log_probabilities_are_not_mixed(world: Path) -> None:
    with FakeServer("sglang", faults=[None] * (PROBE + 3), always=Fault(500)) as server:
        with pytest.raises(DataError, match="5 images in a row"):
            evaluated(world, server.name)
        server.always, server.served = None, Served(logprobs="absent")
        with pytest.raises(
            DataError, match="log-probabilities that the server does not give any more"
        ) as error:
            evaluated(world, server.name)
        one_sentence(error)
        assert no_rows(world)


def test_log_probabilities_that_a_server_gives_later_are_in_its_row(world: Path) -> None:
    with FakeServer(
        "sglang", Served(logprobs="absent"), faults=[None] * (PROBE + 3), always=Fault(500)
    ) as server:
        with pytest.raises(DataError, match="5 images in a row"):
            evaluated(world, server.name)
        server.always, server.served = None, Served()
        assert server_of(evaluated(world, server.name))["logprobs"] is True
        again = evaluated(world, server.name)
        assert again.stats.forward_passes == 0
        assert server_of(again)["logprobs"] is True


def test_a_server_too_busy_to_tell_its_models_is_asked_again(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the check of the end."""
    told, failures = asking.told_identity, [MayPass("HTTP 503", status=503)]

    def busy_once(client: Client, model: str) -> ServerIdentity:
        if failures:
            raise failures.pop()
        return told(client, model)

    monkeypatch.setattr(asking, "told_identity", busy_once)
    with FakeServer("sglang") as server:
        assert len(evaluated(world, server.name).images) == N
    assert not failures


def test_other_options_under_one_question_are_other_requests(world: Path) -> None:
    """The question does not list them; a server gives their likelihoods."""
    card = world / "patches.toml"
    card.write_text(card.read_text().replace("\\n{options}\\n", " "))
    with FakeServer("vllm") as server:
        assert evaluated(world, server.name).stats.forward_passes > 0
        names = world / "data" / "images.csv"
        head, *lines = names.read_text().splitlines()
        turned = [
            ",".join([*each.split(",")[:2], *reversed(each.split(",")[2:6]), each.split(",")[6]])
            for each in lines
        ]
        names.write_text("\n".join([head, *turned]) + "\n")
        assert evaluated(world, server.name).stats.forward_passes > 0


def test_noise_is_recorded(world: Path) -> None:
    with FakeServer("sglang", Served(noise=0.01)) as server:
        assert server_of(evaluated(world, server.name))["repeatable"] is False
    with FakeServer("sglang") as server:
        assert server_of(evaluated(world, server.name, store="other"))["repeatable"] is True


def test_letters_outside_the_likeliest_tokens_are_counted(world: Path) -> None:
    """Six tokens come back, of ten: four letters, with and without a space, and two others."""
    with FakeServer("sglang", Served(most=6)) as server:
        result = evaluated(world, server.name)
        missing = 0
        for chat in server.chats:
            if pictured([chat], world):
                shown = {name.strip() for name, _ in server.model.top(chat, False)[:6]}
                missing += 4 - len(shown & set("ABCD"))
    assert missing > 3
    [row] = [row for row in result.rows if row["metric"] == "top1@letter"]
    assert f"{missing} of {4 * N} letters" in (row["note"] or "")


# ------------------------------------------------------------------------------------------------ the key


def files_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_key_is_sent_and_kept_nowhere(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLIPJAX_SERVER_KEY", KEY)
    with FakeServer("sglang", key=KEY) as server, caplog.at_level(0):
        result = evaluated(world, server.name)
        assert {header["Authorization"] for header in server.headers} == {f"Bearer {KEY}"}
        address = server.root.removeprefix("http://")
    kept = files_below(world) + json.dumps(result.rows).encode() + caplog.text.encode()
    assert KEY.encode() not in kept
    assert address.encode() not in files_below(world) + json.dumps(result.rows).encode()


@pytest.mark.parametrize("own", [KEY, ""])
def test_a_wrong_key_is_refused_in_one_sentence_without_it(
    world: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """The server quotes the key."""
    monkeypatch.setenv("CLIPJAX_SERVER_KEY", own)
    with FakeServer("sglang", key="another") as server:
        with pytest.raises(DataError, match="CLIPJAX_SERVER_KEY") as error:
            evaluated(world, server.name)
        text = one_sentence(error)
        assert KEY not in text
        assert "mend the address" not in text  # it is right
        assert server.chats == []


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_quotes_the_key_is_not_quoted(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    monkeypatch.setenv("CLIPJAX_SERVER_KEY", KEY)
    said = {"error": {"message": f"no route for Authorization: Bearer {KEY}", "code": status}}
    quotes = Fault(status, body=json.dumps(said).encode())
    with FakeServer("sglang", always=quotes) as server, pytest.raises(DataError, match="no route") as error:
        evaluated(world, server.name)
    assert KEY not in one_sentence(error) + caplog.text


def test_a_redirect_does_not_get_the_key(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPJAX_SERVER_KEY", KEY)
    with FakeServer("sglang") as other:
        moved = Fault(307, location=f"{other.url}/chat/completions")
        with FakeServer("sglang", always=moved, key=KEY) as server:
            with pytest.raises(DataError, match=r"307|redirect") as error:
                evaluated(world, server.name)
            one_sentence(error)
        assert other.headers == []


# ------------------------------------------------------------------------------------------------ the command


class Ended(NamedTuple):
    """How a command ended: its exit code, its last line on stderr, and everything that it printed."""

    code: int
    said: str
    printed: str


@pytest.fixture
def command(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Ended]:
    """`clipjax eval multiple_choice` in this process."""
    data = ["--dataset", str(world / "patches.toml"), "--data", str(world / "data")]
    where = ["--results", str(world / "runs"), "--store", str(world / "store")]
    monkeypatch.setattr(cli.signals, "handled", contextlib.nullcontext)

    def run(name: str) -> Ended:
        asked = ["--model", name, "--rotations", "given", "--steps", "4"]
        monkeypatch.setattr(sys, "argv", ["clipjax", "eval", "multiple_choice", *asked, *data, *where])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ended(code, err.splitlines()[-1] if err else "", out + err)

    return run


@pytest.mark.parametrize(
    "name", ["server:http://me:{key}@127.0.0.1:1/v1#m", "server:http://127.0.0.1:1/v1?key={key}#m"]
)
def test_an_address_with_a_secret_is_refused_without_it(command: Callable[[str], Ended], name: str) -> None:
    ended = command(name.format(key=KEY))
    assert ended.code == 2
    assert "CLIPJAX_SERVER_KEY" in ended.said
    assert KEY not in ended.printed


def test_the_command_ends_with_1_and_one_sentence(world: Path, command: Callable[[str], Ended]) -> None:
    with FakeServer("sglang", faults=[None] * PROBE, always=Fault(500)) as server:
        ended = command(server.name)
        assert ended.code == 1
        assert "stopped after 5 images in a row without an answer" in ended.said
        assert no_rows(world)
        server.always = None
        ended = command(server.name)
        assert ended.code == 0
        assert "server:sglang:narrow-vl" in ended.printed
        assert not no_rows(world)


def test_no_server_is_one_sentence(command: Callable[[str], Ended]) -> None:
    ended = command("server:http://127.0.0.1:9/v1#m")
    assert ended.code == 1
    assert "start one" in ended.said


@pytest.mark.parametrize("page", [b"<html>It works!</html>", b'{"data": 3}', b"[]"])
def test_another_kind_of_server_is_one_sentence(command: Callable[[str], Ended], page: bytes) -> None:
    with FileServer({"/v1/models": Content(page)}) as server:
        ended = command(f"server:{server.url}/v1#m")
        assert ended.code == 1
        assert "mend the address" in ended.said


def test_a_model_that_the_server_does_not_have_is_named(command: Callable[[str], Ended]) -> None:
    with FakeServer("sglang") as server:
        ended = command(f"server:{server.url}#narow-vl")
        assert ended.code == 2
        assert "did you mean narrow-vl?" in ended.said
        assert server.chats == []
