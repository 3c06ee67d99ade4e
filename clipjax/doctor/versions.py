"""Installed packages against clipjax's requirements and the tested versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clipjax.config import config_dir
from clipjax.doctor.line import BROKEN, FINE, NOTE, Line
from clipjax.doctor.machine import Machine
from clipjax.storage.reading import read_toml

_HEADER = """\
# The versions that the tests ran with: `clipjax doctor` says which of the installed ones differ.
# Written by `python -m clipjax.doctor`; never by hand.
"""
_EXTRAS = ("reference",)  # checked beside the requirements; the packages of `dev` decide no number
_BESIDE = ("jaxlib",)  # decides numbers, but is not required by name


def check_versions(machine: Machine) -> Iterator[Line]:
    required = list(_requirements(machine, "clipjax"))
    if not required:
        yield Line("versions", NOTE, "clipjax is not installed as a package", "pip install -e .")
    unmet = [*_unmet(machine, "clipjax"), *_unmet(machine, "jax")]
    for owner, requirement, version in unmet:
        has = "it is not installed" if version is None else f"{version} is installed"
        wants = f"{requirement.name}{requirement.specifier}"
        yield Line("versions", BROKEN, f"{owner} needs {wants}: {has}", f'pip install "{wants}"')
    tested = read_toml(config_dir() / "tested_versions.toml")
    other = list(differing(machine, tested))
    if other:
        yield Line(
            "versions",
            NOTE,
            f"other than the tested versions: {', '.join(other)}",
            "nothing, unless a number is not what you expect: then install the tested ones "
            "(configs/tested_versions.toml)",
        )
    elif not unmet:
        count = len(tested["packages"])
        yield Line("versions", FINE, f"the {count} packages are those that the tests ran with, if installed")


def differing(machine: Machine, tested: dict[str, Any]) -> Iterator[str]:
    """ "numpy 2.5.0 (2.4.6)" for each installed package of another version than the tested one."""
    minor = machine.python.split(".")[:2]
    if minor != tested["python"].split(".")[:2]:
        yield f"Python {machine.python} ({tested['python']})"
    for name, version in tested["packages"].items():
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


def installed_set(machine: Machine) -> str:
    """The text of configs/tested_versions.toml."""
    extras = [each for extra in _EXTRAS for each in _requirements(machine, "clipjax", extra)]
    required = [*_requirements(machine, "clipjax"), *extras]
    names = {canonicalize_name(requirement.name) for requirement in required} | set(_BESIDE)
    lines = [f'{name} = "{version}"' for name in sorted(names) if (version := machine.version(name))]
    return "\n".join([f'{_HEADER}\npython = "{machine.python}"', "", "[packages]", *lines, ""])
