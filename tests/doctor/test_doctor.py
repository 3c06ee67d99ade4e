"""`clipjax doctor`: each check on machines that are made up, and the command on this one."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from _colours import COLOURS, paint
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.config import config_dir
from clipjax.doctor.accelerators import check_accelerators, check_devices, check_torch
from clipjax.doctor.data import bytes_an_image, check_data, check_planned
from clipjax.doctor.examine import examine
from clipjax.doctor.folders import bytes_in, check_compile_cache, check_folders
from clipjax.doctor.host import check_host, core_limit, memory_limit
from clipjax.doctor.line import BROKEN, FINE, NOTE, CheckResult
from clipjax.doctor.machine import Machine, Probe, _reason, installed_version, this_machine
from clipjax.doctor.versions import check_versions, installed_stack, stacks_text
from clipjax.errors import DataError, UsageError, readable_bytes

ROOT = Path(__file__).parents[2]
CPU = Probe([{"platform": "cpu", "kind": "cpu", "memory": None}])
GPU = Probe([{"platform": "gpu", "kind": "NVIDIA H100", "memory": 60 * 10**9}] * 2)


def machine(root: Path, files: dict[str, str] | None = None, **fields: object) -> Machine:
    """A machine whose /proc, /sys and /dev are `files` below `root`."""
    for name, text in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Machine(**{"root": root, "probe": lambda: CPU, **fields})  # pyright: ignore[reportArgumentType]


def only(lines: object) -> CheckResult:
    [line] = lines  # pyright: ignore[reportGeneralTypeIssues]
    return line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("fpu avx512f avx512_bf16 amx_bf16", "fast takes products with float32 results"),
        ("fpu avx512f avx512_bf16x amx_bf16", "emulates --precision fast"),
        (None, "emulates --precision fast"),
    ],
)
def test_the_form_of_fast_on_a_cpu(flags: str | None, says: str, tmp_path: Path) -> None:
    files = {} if flags is None else {"proc/cpuinfo": f"processor\t: 0\nflags\t\t: {flags}\nbugs\t:\n"}
    _, line = check_devices(replace(machine(tmp_path, files), probe=lambda: CPU))
    assert says in line.says
    of_gpu = Probe([{"platform": "gpu", "kind": "H100", "memory": None}])
    assert len(list(check_devices(replace(machine(tmp_path, files), probe=lambda: of_gpu)))) == 1


def test_host_says_what_is_there_and_what_the_container_allows(tmp_path: Path) -> None:
    meminfo = {"proc/meminfo": "MemTotal:  32000000 kB\nMemAvailable: 16000000 kB\nHugePages_Total: 0\n"}
    line = only(check_host(machine(tmp_path, meminfo, cores=8, python="3.12.1")))
    assert (line.status, line.says) == (
        FINE,
        "Python 3.12.1, 8 cores, 32.8 GB of memory, 16.4 GB of it free",
    )
    cgroup = {
        "proc/self/cgroup": "0::/jobs/one\n",
        "sys/fs/cgroup/jobs/one/memory.max": "max\n",
        "sys/fs/cgroup/jobs/memory.max": "2000000000\n",
        "sys/fs/cgroup/jobs/one/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
    }
    _, allowed, cores, little = check_host(machine(tmp_path, cgroup, cores=8))
    assert allowed.says == "the container allows 2.0 GB of memory"
    assert (cores.status, cores.says.startswith("the container allows 1.5 of the 8 cores")) == (NOTE, True)
    assert (little.status, "2.0 GB of memory is little" in little.says) == (NOTE, True)


def test_limits_of_cgroups_of_version_1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n",
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    fake = machine(tmp_path, files)
    assert (memory_limit(fake), core_limit(fake)) == (None, None)
    more = {
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
    }
    fake = machine(tmp_path, more)
    assert (memory_limit(fake), core_limit(fake)) == (5000, 4.0)


def test_devices_are_counted_by_kind(tmp_path: Path) -> None:
    line = only(check_devices(machine(tmp_path, probe=lambda: GPU)))
    assert (line.status, line.says) == (FINE, "2 x gpu (NVIDIA H100), 60.0 GB for JAX on each")


@pytest.mark.parametrize(
    ("environ", "says", "do"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "JAX_PLATFORMS=cuda names a platform", "unset JAX_PLATFORMS"),
        ({}, "JAX has no devices: gone", "reinstall jax and jaxlib"),
    ],
)
def test_jax_without_devices(tmp_path: Path, environ: dict, says: str, do: str) -> None:
    fake = machine(tmp_path, environ=environ, probe=lambda: Probe(error="gone"))
    line = only(check_devices(fake))
    assert line.status == BROKEN
    assert says in line.says
    assert do in line.do
    assert list(check_accelerators(fake)) == [], "one problem is said once"


def test_the_reason_is_the_last_line_of_a_traceback() -> None:
    assert _reason("Traceback:\n  x\nRuntimeError: Unable to initialize backend 'foo'\n\n") == (
        "Unable to initialize backend 'foo'"
    )
    assert _reason("Traceback:\nAssertionError\n") == "its backend is not installed"
    assert _reason("") == ""


DRIVER = "proc/driver/nvidia/version"
NVRM = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (x)  Sun Jul 27 2025\n"
TPU = {"sys/bus/pci/devices/0/vendor": "0x1ae0\n", "sys/bus/pci/devices/0/device": "0x0063\n"}


@pytest.mark.parametrize(
    ("files", "package", "extra"),
    [
        ({"dev/nvidia0": ""}, "jax-cuda12-plugin", "cuda12"),
        ({"dev/nvidia0": "", DRIVER: NVRM.format("575.57.08")}, "jax-cuda12-plugin", "cuda12"),
        ({"dev/nvidia0": "", DRIVER: NVRM.format("580.65.06")}, "jax-cuda13-plugin", "cuda13"),
        (TPU, "libtpu", "tpu"),
    ],
)
def test_an_accelerator_that_jax_does_not_use(tmp_path: Path, files: dict, package: str, extra: str) -> None:
    fake = machine(tmp_path, files)
    line = only(check_accelerators(fake))
    assert (line.status, line.do) == (BROKEN, f'pip install ".[{extra}]"')
    built = replace(fake, version={package: "1.0"}.get)
    assert "does not use it" in only(check_accelerators(built)).says
    chosen = replace(fake, environ={"JAX_PLATFORMS": "cpu"})
    assert only(check_accelerators(chosen)).status == NOTE
    used = Probe([{"platform": "tpu" if extra == "tpu" else "gpu", "kind": "", "memory": None}])
    assert list(check_accelerators(replace(fake, probe=lambda: used))) == []


def test_a_plugin_of_another_version_than_jaxlib(tmp_path: Path) -> None:
    installed = {"jaxlib": "0.10.2", "jax-cuda12-plugin": "0.10.1"}
    line = only(check_accelerators(machine(tmp_path, version=installed.get)))
    assert (line.status, line.do) == (BROKEN, 'pip install "jax-cuda12-plugin[with-cuda]==0.10.2"')
    installed["jax-cuda12-plugin"] = "0.10.2"
    assert list(check_accelerators(machine(tmp_path, version=installed.get))) == []


def test_googles_network_card_is_no_tpu(tmp_path: Path) -> None:
    fake = machine(tmp_path, {**TPU, "sys/bus/pci/devices/0/device": "0x0042\n"})
    assert list(check_accelerators(fake)) == []


CUDA = {
    "torch": ["sympy", 'nvidia-cudnn-cu12==9.10.2.21; platform_system == "Linux"'],
    "jax-cuda12-plugin": ["jaxlib", 'nvidia-cudnn-cu12<10.0,>=9.8; extra == "with-cuda"'],
}


def with_torch(
    root: Path, cudnn: str, requires: Mapping[str, list[str]] = CUDA, environ: Mapping[str, str] | None = None
) -> list[CheckResult]:
    installed = {"torch": "2.13.0", "jax-cuda12-plugin": "0.10.2", "nvidia-cudnn-cu12": cudnn}
    fake = machine(root, version=installed.get, requires=lambda name: requires.get(name, []))
    fake = replace(fake, environ=environ or {})
    return list(check_torch(fake))


def test_one_cudnn_must_suit_torch_and_jax(tmp_path: Path) -> None:
    off = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    assert only(with_torch(tmp_path, "9.10.2.21", environ=off)).status == FINE
    line = only(with_torch(tmp_path, "9.15.0", environ=off))
    assert line.status == BROKEN
    assert line.says == "torch 2.13.0 needs nvidia-cudnn-cu12==9.10.2.21, 9.15.0 is installed"
    assert "for CPUs" in line.do
    older = CUDA | {"torch": ["nvidia-cudnn-cu12==9.1.0"]}
    assert (
        "jax-cuda12-plugin needs nvidia-cudnn-cu12<10.0,>=9.8" in with_torch(tmp_path, "9.1.0", older)[0].says
    )
    thirteen = CUDA | {"torch": ["nvidia-cudnn-cu13==9.15.0"]}
    assert only(with_torch(tmp_path, "9.10.2.21", thirteen, environ=off)).status == NOTE


def test_memory_that_jax_takes_at_its_start(tmp_path: Path) -> None:
    _, line = with_torch(tmp_path, "9.10.2.21")
    assert (line.status, "0.75" in line.says) == (NOTE, True)
    _, line = with_torch(tmp_path, "9.10.2.21", environ={"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"})
    assert "0.4" in line.says
    cpu = machine(tmp_path, version={"torch": "2.13.0+cpu", "jax-cuda12-plugin": "0.10.2"}.get)
    assert only(check_torch(cpu)).status == FINE
    assert "not installed" in only(check_torch(machine(tmp_path))).says


STACKS = tomllib.loads((config_dir() / "tested_versions.toml").read_text())["stacks"]


def versions(root: Path, stack: int = 0, **installed: str | None) -> list[CheckResult]:
    """Of a machine with the versions of a tested stack but for `installed` (an underscore for a dash)."""
    tested = STACKS[stack]
    found = {**tested["packages"], **{name.replace("_", "-"): v for name, v in installed.items()}}
    requires = {
        "clipjax": ["jax<0.12,>=0.10.2", 'torch>=2.6; extra == "reference"'],
        "jax": ["jaxlib<=0.10.2"],
    }
    return list(
        check_versions(
            machine(root, version=found.get, requires=lambda name: requires[name], python=tested["python"])
        )
    )


def test_versions_against_the_requirements_and_the_tested_set(tmp_path: Path) -> None:
    assert only(versions(tmp_path)).status == FINE
    line = only(versions(tmp_path, numpy="9.9"))
    assert line.status == NOTE
    assert "numpy 9.9 (" in line.says
    assert only(versions(tmp_path, torch="2.13.0+cu130")).status == FINE, "the build is no other version"
    too_new, _ = versions(tmp_path, jax="0.12.0")
    assert (too_new.status, too_new.do) == (BROKEN, 'pip install "jax<0.12,>=0.10.2"')
    gone = versions(tmp_path, jaxlib=None)[0]
    assert (gone.status, gone.says) == (BROKEN, "jax needs jaxlib<=0.10.2: it is not installed")


def test_either_tested_stack_is_fine_and_another_is_compared_with_the_nearest(tmp_path: Path) -> None:
    jax, newest = STACKS[1]["packages"]["jax"], STACKS[1]["python"]
    assert jax > STACKS[0]["packages"]["jax"]
    requires = {"clipjax": ["jax<0.13,>=0.10.2"], "jax": []}.__getitem__
    for stack in STACKS:
        fake = machine(tmp_path, version=stack["packages"].get, python=stack["python"], requires=requires)
        line = only(check_versions(fake))
        assert (line.status, f"on Python {stack['python']}," in line.says) == (FINE, True)
    found = {**STACKS[1]["packages"], "numpy": "9.9"}
    line = only(check_versions(machine(tmp_path, version=found.get, python=newest, requires=requires)))
    numpy = STACKS[1]["packages"]["numpy"]
    assert (line.status, line.says) == (
        NOTE,
        f"other than the versions tested on Python {newest}: numpy 9.9 ({numpy})",
    )


@pytest.mark.parametrize(("stack", "extras"), [(0, ["reference"]), (1, [])])
def test_a_tested_stack_names_what_the_project_requires(stack: int, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"]]
    for extra in extras:
        required += project["optional-dependencies"][extra]
    tested = STACKS[stack]["packages"]
    assert {canonicalize_name(Requirement(each).name) for each in required} | {"jaxlib"} == set(tested)
    for requirement in map(Requirement, required):
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)])


def test_a_stack_is_written_from_what_is_installed(tmp_path: Path) -> None:
    fake = machine(
        tmp_path,
        python="3.13.0",
        version={"jax": "0.11", "jaxlib": "0.11", "torch": "3.0"}.get,
        requires=lambda name: ["jax>=0.10", "tpu-only; extra == 'tpu'", 'torch>=2; extra == "reference"'],
    )
    stack = installed_stack(fake)
    assert stack == {"python": "3.13.0", "packages": {"jax": "0.11", "jaxlib": "0.11", "torch": "3.0"}}
    assert tomllib.loads(stacks_text([stack, stack])) == {"stacks": [stack, stack]}


def test_folders(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fake = machine(tmp_path, environ={"CLIPJAX_CACHE": str(cache)}, free=lambda folder: 20 * 10**9)
    assert [line.says for line in check_folders(fake)] == [
        f"{cache} (made when it is needed)",
        f"{cache / 'store'} (made when it is needed)",
    ]
    (cache / "store").mkdir(parents=True)
    (cache / "store" / "a").write_bytes(b"x" * 1500)
    assert bytes_in(cache) == 1500
    assert f"{cache / 'store'}: 1.5 kB, 20.0 GB free on its disk" in [
        line.says for line in check_folders(fake)
    ]
    *_, line = check_folders(replace(fake, free=lambda folder: 10**9))
    assert (line.check, line.status) == ("disk", NOTE)
    for line in check_folders(replace(fake, writable=lambda folder: False), store=tmp_path / "s"):
        assert (line.status, "cannot be written" in line.says) == (BROKEN, True)
    (tmp_path / "s").write_text("")
    assert "is a file" in list(check_folders(fake, store=tmp_path / "s"))[1].says


def test_compile_cache(tmp_path: Path) -> None:
    environ = {"CLIPJAX_CACHE": str(tmp_path)}
    fake = machine(tmp_path, environ=environ)
    assert str(tmp_path / "xla") in only(check_compile_cache(fake)).says
    for name, value, says in (
        ("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"), str(tmp_path / "own")),
        ("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla", "on a bucket"),
        ("JAX_ENABLE_COMPILATION_CACHE", "false", "every run compiles again"),
    ):
        assert says in only(check_compile_cache(replace(fake, environ={**environ, name: value}))).says


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of the user's own, and a shipped card's place that holds something else."""
    for colour in COLOURS:
        paint(tmp_path / "colours" / colour / "0.png", colour)
    card = f'name = "colours"\ntitle = "C"\nreader = "folder"\nclasses = {json.dumps(list(COLOURS))}\n'
    (tmp_path / "colours.toml").write_text(card + 'tasks = ["zeroshot"]\n')
    (tmp_path / "imagenet-r" / "n01443537").mkdir(parents=True)
    return tmp_path


def test_data_sets_that_are_there(data: Path) -> None:
    broken, found, missing = check_data(machine(data), data_root=data)
    assert (broken.status, broken.do) == (BROKEN, f"clipjax datasets check imagenet_r {data / 'imagenet-r'}")
    assert (found.status, found.says) == (FINE, "1 data set in order: colours")
    assert (missing.status, "not there" in missing.says) == (FINE, True)
    with pytest.raises(DataError, match="is not a folder"):
        list(check_data(machine(data), data_root=data / "gone"))
    assert list(check_planned(machine(data), data_root=data / "gone", models=())) == [], "it is said once"


def test_a_store_on_a_bucket_is_not_looked_into(tmp_path: Path) -> None:
    lines = list(check_folders(this_machine(), store=Path("gs://bucket/store")))
    assert [line.says for line in lines if line.check == "store"] == [
        "gs://bucket/store (on a bucket: not looked into)"
    ]


def test_a_folder_without_known_data_sets_says_what_to_do(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "cat" / "0.png", next(iter(COLOURS)))
    line, missing = check_data(machine(tmp_path), data_root=tmp_path)
    assert (line.status, line.says) == (NOTE, f"{tmp_path} holds no data set that is in order")
    assert line.do.startswith("put data sets where `clipjax datasets list` says, or a card of your own")
    assert (missing.status, missing.do) == (FINE, "")


def test_room_for_planned_embeddings(data: Path) -> None:
    models = ("vit_b_32-openai", "tf_efficientnet_lite0-in1k")
    assert list(bytes_an_image(models)) == [4 * 512, 4 * 1280]
    needed = (4 * 512 + 4 * 1280) * (30000 + len(COLOURS))  # the card's number, and what is counted
    asked = {"data_root": data, "models": models, "store": data / "store"}
    enough = replace(machine(data), free=lambda folder: needed)
    line = only(check_planned(enough, **asked))
    assert (line.status, readable_bytes(needed) in line.says) == (FINE, True)
    assert only(check_planned(replace(enough, free=lambda folder: needed - 1), **asked)).status == BROKEN
    every = only(check_planned(enough, data_root=data, models=()))
    assert (every.status, "all registered models" in every.says) == (NOTE, True)


def test_a_check_that_fails_is_a_line(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such thing\nat all")

    lines = list(examine(machine(tmp_path, environ={"CLIPJAX_CACHE": str(tmp_path)}, version=fail)))
    said = {line.check: line for line in lines if "could not be run" in line.says}
    assert said.keys() == {"accelerators", "versions", "torch"}
    assert "RuntimeError: no such thing)" in said["torch"].says
    assert {"host", "devices", "cache"} <= {line.check for line in lines}, "the others still run"


def test_the_command_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX is asked once, in a process of its own; what is broken decides the exit code."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, ["doctor", "--json"])
    record = json.loads(done.stdout)
    devices, of_fast = (line for line in record["lines"] if line["check"] == "devices")
    assert devices == {"check": "devices", "status": FINE, "says": "8 x cpu (cpu)", "do": ""}
    assert "--precision fast" in of_fast["says"], "what it says depends on the machine"
    assert (done.exception is None) == (record["broken"] == [])

    fake = machine(tmp_path, environ={"CLIPJAX_CACHE": str(tmp_path)}, probe=lambda: Probe(error="gone"))
    monkeypatch.setattr("clipjax.doctor.machine.this_machine", lambda: fake)
    done = CliRunner().invoke(app, ["doctor"])
    assert str(done.exception) == "1 thing must be fixed: devices"
    assert isinstance(done.exception, DataError)
    assert "-> end other processes that hold the device" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models", "vit_b_32-openai"], "--models has no effect without --data-root"),
        (["--models", "vit_b_32-opena", "--data-root", "."], "did you mean vit_b_32-openai"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_looked_at(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
    assert done.stdout == ""


def test_what_a_real_machine_reads() -> None:
    real = this_machine()
    assert real.version("numpy") == installed_version("numpy") is not None
    assert installed_version("no-such-package") is None
    assert real.requires("no-such-package") == ()
    assert real.cores >= 1
    assert real.read("/no/such/file") is None
    assert [readable_bytes(n) for n in (0, 999, 4_000_000, 2.5e12, 3e15)] == [
        "0 B",
        "999 B",
        "4.0 MB",
        "2.5 TB",
        "3000.0 TB",
    ]
