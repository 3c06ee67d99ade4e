"""`clipjax.devices.signals.handled` with small programs: the end comes for certain, with its code and one
sentence.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _long import mostly_long

from clipjax.devices import signals

ROOT = Path(__file__).resolve().parents[2]
GRACE = 1.0  # of the programs below
BRIEF = 0.4  # of those that take the processor all the while
SLACK = 4.0  # more seconds: the machine may be busy
TERM = "clipjax: interrupted: what is finished is kept; run the same command again"
INT = "clipjax: stopped: what is finished is kept; the same command goes on from there"
DROPPED = "; what was being computed is dropped"
START = """
import atexit, ctypes, gc, hashlib, os, signal, subprocess, sys, threading, time, weakref
from clipjax.devices import signals
from clipjax.errors import DataError, Interrupted
signals.GRACE = {grace}
def ready():
    print("ready", flush=True)
def program():
{body}
with signals.handled():
    program()
"""


def program(body: str, grace: float = GRACE) -> list[str]:
    """The command of a process that runs `body`."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return [sys.executable, "-c", START.format(grace=grace, body=lines)]


def start(body: str, grace: float = GRACE, **options: object) -> subprocess.Popen[str]:
    """A process that runs `body` as its program; returns when that has printed "ready"."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    process = subprocess.Popen(program(body, grace), text=True, cwd=ROOT, **pipes)  # type: ignore[call-overload]
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def end(process: subprocess.Popen[str], *numbers: int, within: float) -> tuple[int, str, str]:
    """Exit code, the rest of stdout, and stderr, after these signals."""
    start = time.monotonic()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.2 if len(numbers) > 1 else 0)
    try:
        out, err = process.communicate(timeout=within + SLACK)
    finally:
        process.kill()
    assert time.monotonic() - start < within + SLACK
    return process.returncode, out, err


BOTH = pytest.mark.parametrize(
    ("number", "code", "says"), [(signal.SIGTERM, 75, TERM), (signal.SIGINT, 130, INT)]
)


def mostly_sigterm(guard: str) -> pytest.MarkDecorator:
    """Ctrl-C is long: its code and sentence are what `guard` sees."""
    numbers = [(signal.SIGTERM, 75, TERM), (signal.SIGINT, 130, INT)]
    return pytest.mark.parametrize(
        ("number", "code", "says"), mostly_long(numbers, numbers[:1], f"signals/test_signals.py::{guard}")
    )


# Python swallows what is raised in these, and the program goes on.
SWALLOWING = {
    "gc callback": """
def callback(phase, info):
    until = time.monotonic() + 0.05
    while time.monotonic() < until: pass
gc.callbacks.append(callback)
ready()
while True: gc.collect()
""",
    "finaliser": """
class Slow:
    def __del__(self):
        until = time.monotonic() + 0.05
        while time.monotonic() < until: pass
ready()
while True: Slow()
""",
    "weak reference": """
class Thing: pass
def callback(_):
    until = time.monotonic() + 0.05
    while time.monotonic() < until: pass
ready()
while True:
    thing = Thing()
    reference = weakref.ref(thing, callback)
    del thing
""",
    "ctypes callback": """
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(a, b):
    until = time.monotonic() + 0.05
    while time.monotonic() < until: pass
    return 0
array = (ctypes.c_int * 2)(2, 1)
ready()
while True: ctypes.CDLL(None).qsort(array, 2, 4, compare)
""",
    "bare except": """
ready()
while True:
    try:
        time.sleep(0.05)
    except BaseException:
        pass
""",
}


@mostly_sigterm("test_the_program_unwinds_once_and_says_one_sentence")
@pytest.mark.parametrize("place", SWALLOWING)
def test_a_swallowed_exception_does_not_lose_the_signal(
    place: str, number: signal.Signals, code: int, says: str
) -> None:
    """Sooner or later it is raised where it counts; where it never is, the grace ends."""
    ended, _, err = end(start(SWALLOWING[place], BRIEF), number, within=BRIEF)
    assert ended == code, err
    assert err in (says + "\n", says + DROPPED + "\n")


def test_the_exception_is_raised_again_at_once_where_it_was_dropped() -> None:
    """The grace is long, so this is the handler and not the end."""
    body = """
def swallow():
    try:
        ready()
        time.sleep(60)
    except BaseException as error:
        print("swallowed", type(error).__name__, flush=True)
swallow()
time.sleep(60)
"""
    process = start(body, grace=60)
    assert end(process, signal.SIGTERM, within=0.5) == (75, "swallowed Interrupted\n", TERM + "\n")


DEEP = {
    "hashing": 'ready()\nhashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)',
    "sleeping in C": "ready()\nwhile True: ctypes.CDLL(None).sleep(1000)",
    "waiting for a lock": "lock = threading.Lock(); lock.acquire()\nready()\nlock.acquire()",
    "unwinding": "try:\n    ready(); time.sleep(60)\nfinally:\n    ctypes.CDLL(None).usleep(60 * 10**6)",
}


@mostly_sigterm("test_held_signals_end_the_process_after_the_grace_or_at_a_second_ctrl_c")
@pytest.mark.parametrize("place", DEEP)
def test_a_program_that_is_deep_in_something_is_ended(
    place: str, number: signal.Signals, code: int, says: str
) -> None:
    ended, _, err = end(start(DEEP[place], BRIEF), number, within=BRIEF)
    assert ended == code, err
    assert err in (says + "\n", says + DROPPED + "\n")


def test_a_jitted_loop_is_ended() -> None:
    body = """
import jax
jax.config.update("jax_platforms", "cpu")
loop = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 2.0, lambda x: x * 0.5, x)).lower(1.0).compile()
ready()
loop(1.0).block_until_ready()
"""
    process = start(body, BRIEF)
    time.sleep(0.3)  # until it is in the loop
    code, _, err = end(process, signal.SIGTERM, within=BRIEF)
    assert code == 75, err
    assert err in (TERM + "\n", TERM + DROPPED + "\n")


@BOTH
def test_the_program_unwinds_once_and_says_one_sentence(number: signal.Signals, code: int, says: str) -> None:
    body = """
signals.before_leaving(lambda: print("left"))
try:
    ready()
    time.sleep(60)
except Exception:
    print("caught")
finally:
    time.sleep(0.4)  # several looks of the thread
    print("unwound")
"""
    process = start(body, grace=60)
    assert end(process, number, within=0.5) == (code, "unwound\nleft\n", says + "\n")


def test_a_second_ctrl_c_ends_at_once() -> None:
    body = "try:\n    ready(); time.sleep(60)\nfinally:\n    time.sleep(60)"
    code, _, err = end(start(body, grace=60), signal.SIGINT, signal.SIGINT, within=0.5)
    assert (code, err) == (130, INT + DROPPED + "\n")


def test_a_second_sigterm_changes_nothing() -> None:
    body = "try:\n    ready(); time.sleep(60)\nfinally:\n    time.sleep(1); print('unwound')"
    ended = end(start(body, grace=60), signal.SIGTERM, signal.SIGTERM, within=1)
    assert ended == (75, "unwound\n", TERM + "\n")


@pytest.mark.parametrize("number", signals.EXIT_CODES)
@pytest.mark.parametrize("code", [0, 1])
def test_after_the_end_of_the_program_its_own_code_counts(number: int, code: int) -> None:
    """The interpreter shuts down, which takes JAX a while."""
    body = f"atexit.register(lambda: (ready(), time.sleep(0.6)))\nsys.exit({code})"
    assert end(start(body), number, within=0.6) == (code, "", "")


def test_the_end_of_an_interpreter_that_hangs_has_the_programs_code() -> None:
    body = "threading.Thread(target=time.sleep, args=(60,)).start()\nprint('done')\nready()"
    process = start("sys.stdout.reconfigure(line_buffering=True)\n" + body.replace("print('done')\n", ""))
    time.sleep(0.3)
    assert end(process, signal.SIGTERM, within=GRACE)[::2] == (0, "")


def test_an_error_that_follows_from_the_signal_is_not_the_end() -> None:
    body = """
try:
    ready()
    time.sleep(60)
except BaseException:
    raise SystemExit(1)
"""
    assert end(start(body), signal.SIGINT, within=0.5) == (130, "", INT + "\n")


@pytest.mark.parametrize("raised", ["DataError('no')", "SystemExit(2)", "KeyError('x')"])
def test_without_a_signal_errors_pass(raised: str) -> None:
    code, _, err = end(start(f"ready()\nraise {raised}"), within=1)
    assert code == (2 if "2" in raised else 1)
    assert "interrupted" not in err


def test_an_interruption_at_the_edge_of_the_program_ends_it_the_same_way() -> None:
    """The handler may raise while `handled` is entered or left, where that catches nothing."""
    code = "from clipjax.devices import signals\nfrom clipjax.errors import Interrupted\n"
    code += "with signals.handled(): pass\nraise Interrupted('interrupted at the edge', 75)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "clipjax: interrupted at the edge\n")


def test_a_stderr_that_nobody_reads_delays_nothing() -> None:
    """The pipe is full: the main thread waits in its sentence, and so does the thread."""
    body = """
os.set_blocking(2, False)
try:
    os.write(2, b"x" * 10**6)
except BlockingIOError:
    pass
os.set_blocking(2, True)
ready()
time.sleep(60)
"""
    process = start(body)
    process.send_signal(signal.SIGTERM)
    assert process.wait(GRACE + signals._SPEAKING + SLACK) == 75
    process.communicate()


def test_the_processes_that_it_started_end_with_it() -> None:
    """Here the main thread cannot end them: it never unwinds."""
    body = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(child.pid, flush=True)
ready()
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(program(body, BRIEF), text=True, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(BRIEF + SLACK) == 75
    until = time.monotonic() + SLACK
    while _runs(child):
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def test_the_end_of_a_forked_child_is_not_ours() -> None:
    body = """
import warnings
warnings.simplefilter("ignore")  # since 3.12 Python warns of forks beside threads
child = os.fork()
if not child:
    time.sleep(60)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
status = os.waitpid(child, 0)[1]
ready()
time.sleep(0.5)
print(os.waitstatus_to_exitcode(status))
"""
    assert end(start(body), within=1) == (0, "-15\n", "")


def test_held_signals_are_noted_and_raised_at_the_end() -> None:
    body = """
with signals.DeferredSignals() as held:
    ready()
    while held.number is None: time.sleep(0.01)
    time.sleep(0.5)
    print(signal.Signals(held.number).name, flush=True)
print("never")
"""
    assert end(start(body, grace=60), signal.SIGTERM, within=1) == (75, "SIGTERM\n", TERM + "\n")


def test_an_error_of_the_holder_counts() -> None:
    body = """
with signals.DeferredSignals() as held:
    ready()
    while held.number is None: time.sleep(0.01)
    raise Interrupted("interrupted after step 6", signals.EXIT_CODES[held.number])
"""
    assert end(start(body, grace=60), signal.SIGINT, within=1) == (
        130,
        "",
        "clipjax: interrupted after step 6\n",
    )


def test_an_error_of_python_passes_the_holder() -> None:
    """Python's exceptions take no weak reference, unlike ours."""
    body = """
with signals.DeferredSignals():
    ready()
    raise OSError("the disk")
"""
    code, _, err = end(start(body), within=1)
    assert (code, err.splitlines()[-1]) == (1, "OSError: the disk")


def test_held_signals_end_the_process_after_the_grace_or_at_a_second_ctrl_c() -> None:
    body = "with signals.DeferredSignals():\n    ready()\n    time.sleep(60)"
    assert end(start(body), signal.SIGTERM, within=GRACE)[::2] == (75, TERM + DROPPED + "\n")
    ended = end(start(body, grace=60), signal.SIGINT, signal.SIGINT, within=1)
    assert ended[::2] == (130, INT + DROPPED + "\n")


def test_what_is_being_saved_is_waited_for() -> None:
    body = """
with signals.DeferredSignals() as held:
    ready()
    while held.number is None: time.sleep(0.01)
    time.sleep(0.3)
    held.extend(30)
    time.sleep(2)
    print("saved", flush=True)
"""
    assert end(start(body), signal.SIGTERM, within=3) == (75, "saved\n", TERM + "\n")


def test_another_thread_may_ask() -> None:
    body = "threading.Timer(0.2, signals.ask, (signal.SIGTERM,)).start()\nready()\ntime.sleep(60)"
    assert end(start(body, grace=60), within=1) == (75, "", TERM + "\n")


def test_the_wake_signal_alone_does_nothing() -> None:
    process = start("ready()\ntime.sleep(0.5)\nprint('done')")
    os.kill(process.pid, signal.SIGURG)
    assert end(process, within=1) == (0, "done\n", "")


def test_the_reference_ends_with_its_parent_even_if_that_is_killed() -> None:
    path = ROOT / "converters" / "golden" / "_parent.py"
    child = f"import runpy, time; runpy.run_path({str(path)!r})['end_with_parent'](); time.sleep(100)"
    code = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {child!r}]).pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        reference = int(parent.stdout.readline())
        time.sleep(1)
        assert _runs(reference)
        parent.kill()
    until = time.monotonic() + 2 + SLACK
    while _runs(reference):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_semaphores_of_worker_processes_are_not_reported_as_leaked() -> None:
    body = """
import multiprocessing
kept = multiprocessing.get_context("spawn").Semaphore()
ready()
time.sleep(60)
"""
    assert end(start(body, grace=60), signal.SIGTERM, within=1) == (75, "", TERM + "\n")
