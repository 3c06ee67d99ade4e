"""Where configs/ lies, and reading it.

The wheel carries configs/ as `clipjax/configs`; a checkout (and an editable install) has it beside the
package.
"""

from __future__ import annotations

import csv
import functools
import tomllib
from pathlib import Path
from typing import Any

from clipjax.errors import DataError


@functools.cache
def config_dir() -> Path:
    """The folder with models.csv, archs/, datasets/, prompts/, labels/ and tokenizers/."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "models.csv").is_file():
            return candidate
    raise DataError(f"configs/ not found beside {package}; reinstall clipjax")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse one TOML file; a syntax error names the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: {error}") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank; spaces within a line are not touched."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    return [line for line in lines if line.strip()]


def read_csv(path: Path) -> list[dict[str, str]]:
    """A CSV file as one dict a row; a row with too many or too few cells is refused by its line number."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}:{reader.line_num}: expected {len(reader.fieldnames or [])} cells")
            rows.append(row)
    return rows
