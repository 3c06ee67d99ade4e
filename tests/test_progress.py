"""How far a phase is: a bar on a terminal, at most ten lines in a log."""

from __future__ import annotations

import sys

import pytest
from tqdm import tqdm

from clipjax import progress
from clipjax.progress import progress_bar, progress_through


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert (out, "\r" in err) == ("", False)
    return err.splitlines()


@pytest.mark.parametrize(("total", "expected"), [(66, 10), (3, 3), (1, 1), (0, 0)])
def test_a_line_at_each_tenth(
    total: int, expected: int, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(total, "train", "step") as bar:
        for step in range(total):
            clock.now += 2
            bar.set_postfix_str(f"loss {step}")
            bar.update()
    found = lines(capsys)
    assert len(found) == expected
    if total == 66:
        assert found[0] == "train: 7/66 [00:14<01:58,  2.00s/step, loss 6]"
        assert found[-1] == "train: 66/66 [02:12<00:00,  2.00s/step, loss 65]"


def test_lines_keep_apart_but_for_the_last(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(100, "prompts", "prompt", initial=50) as bar:
        for _ in range(50):
            clock.now += 0.05
            bar.update()
    shown = [line.split("[")[0].strip() for line in lines(capsys)]
    assert shown == ["prompts: 60/100", "prompts: 80/100", "prompts: 100/100"]


def test_a_total_that_grows_has_a_last_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of three files is whole before the sizes of the others are known."""
    with progress_bar(0, "downloads", "file") as bar:
        for total in (1, 2, 3):
            clock.now += 2
            bar.total = total
            bar.update()
    assert [line.split("[")[0].strip() for line in lines(capsys)][-1] == "downloads: 3/3"


@pytest.mark.parametrize("seconds", [0.09, 0.2])
def test_a_short_phase_may_show_nothing(
    seconds: float, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(10, "hashing", "image", delay=1) as bar:
        for _ in range(10):
            clock.now += seconds
            bar.update()
    assert bool(lines(capsys)) == (seconds * 10 > 1)


def test_a_terminal_has_a_bar_and_who_asks_for_none_has_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(5, "train", "step", shown=False) as bar:
        bar.update(5)
    assert lines(capsys) == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(5, "train", "step", initial=2) as bar:
        assert isinstance(bar, tqdm)
        bar.update(3)
    assert "train: 100%" in capsys.readouterr().err.split("\r")[-1]


def test_items_go_through_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_through("abc", 3, "spell", "letter")) == ["a", "b", "c"]
    assert "spell: 3/3" in capsys.readouterr().err
    assert list(progress_through("abc", 3, "spell", "letter", shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_bytes_have_units_and_earlier_ones_no_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(10_000_000, "downloads", "B") as bar, progress_bar(5, "one", "B", line=1) as other:
        other.update(5)
        progress.skip(other, 1)
        progress.skip(bar, 5_000_000)
        clock.now += 2
        bar.update(5_000_000)
    assert lines(capsys) == ["downloads: 10.0M/10.0M [00:02<00:00, 2.50MB/s]"]


def test_a_total_may_become_known_later(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(None, "downloads", "B") as bar:
        bar.total = 2000
        clock.now += 2
        bar.update(1000)
    assert lines(capsys) == ["downloads: 1.00k/2.00k [00:02<00:02, 500B/s]"]


def test_a_terminals_bar_leaves_earlier_units_out_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(10, "one", "B", line=2) as bar:
        progress.skip(bar, 4)
        assert isinstance(bar, tqdm)
        assert (bar.n, bar.initial, bar.last_print_n, bar.leave) == (4, 4, 4, False)
