"""Installed packages against clipjax's requirements and the tested versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clipjax.config import config_dir
from clipjax.doctor.line import BROKEN, FINE, NOTE, CheckResult
from clipjax.doctor.machine import Machine
from clipjax.storage.reading import read_toml

_HEADER = """\
# The sets of versions that the tests ran with. `clipjax doctor` compares what is installed with the nearest.
# Written by `make records`; never by hand.
"""
_EXTRAS = ("reference",)  # checked beside the requirements; the packages of `dev` decide no number
_BESIDE = ("jaxlib",)  # decides numbers, but is not required by name


def check_versions(machine: Machine) -> Iterator[CheckResult]:
    required = list(_requirements(machine, "clipjax"))
    if not required:
        yield CheckResult("versions", NOTE, "clipjax is not installed as a package", "pip install -e .")
    unmet = [*_unmet(machine, "clipjax"), *_unmet(machine, "jax")]
    for owner, requirement, version in unmet:
        has = "it is not installed" if version is None else f"{version} is installed"
        wants = f"{requirement.name}{requirement.specifier}"
        yield CheckResult("versions", BROKEN, f"{owner} needs {wants}: {has}", f'pip install "{wants}"')
    stacks = read_toml(config_dir() / "tested_versions.toml")["stacks"]
    nearest = min(stacks, key=lambda stack: len(list(differing(machine, stack))))
    other = list(differing(machine, nearest))
    if other:
        yield CheckResult(
            "versions",
            NOTE,
            f"other than the versions tested on Python {nearest['python']}: {', '.join(other)}",
            "nothing, unless a number is not what you expect: then install the tested ones "
            "(configs/tested_versions.toml)",
        )
    elif not unmet:
        count = len(nearest["packages"])
        ran = f"the tests ran with on Python {nearest['python']}"
        yield CheckResult("versions", FINE, f"the {count} packages are those that {ran}, if installed")


def differing(machine: Machine, stack: dict[str, Any]) -> Iterator[str]:
    """ "numpy 2.5.0 (2.4.6)" for each installed package of another version than the tested one."""
    minor = machine.python.split(".")[:2]
    if minor != stack["python"].split(".")[:2]:
        yield f"Python {machine.python} ({stack['python']})"
    for name, version in stack["packages"].items():
        own = machine.version(name)
        if own is not None and own.partition("+")[0] != version.partition("+")[0]:
            yield f"{name} {own} ({version})"


def _requirements(machine: Machine, package: str, extra: str = "") -> Iterator[Requirement]:
    """Requirements that apply here; `extra`: also those of an extra."""
    for requirement in map(Requirement, machine.requires(package)):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _unmet(machine: Machine, package: str) -> Iterator[tuple[str, Requirement, str | None]]:
    for requirement in _requirements(machine, package):
        version = machine.version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield package, requirement, version


def installed_stack(machine: Machine) -> dict[str, Any]:
    """One of the stacks of configs/tested_versions.toml: `python` and `packages`, as installed here."""
    extras = [each for extra in _EXTRAS for each in _requirements(machine, "clipjax", extra)]
    required = [*_requirements(machine, "clipjax"), *extras]
    names = {canonicalize_name(requirement.name) for requirement in required} | set(_BESIDE)
    packages = {name: version for name in sorted(names) if (version := machine.version(name))}
    return {"python": machine.python, "packages": packages}


def stacks_text(stacks: Sequence[dict[str, Any]]) -> str:
    """The text of configs/tested_versions.toml."""
    lines = [_HEADER]
    for stack in stacks:
        lines += ["[[stacks]]", f'python = "{stack["python"]}"', "", "[stacks.packages]"]
        lines += [*(f'{name} = "{version}"' for name, version in stack["packages"].items()), ""]
    return "\n".join(lines)
