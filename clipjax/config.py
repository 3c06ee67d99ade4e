"""Where configs/ lies, and reading it.

The wheel carries configs/ as `clipjax/configs`; a checkout (and an editable install) has it beside the
package.
"""

from __future__ import annotations

import csv
import functools
import io
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


def read_text(path: Any) -> str:
    """A UTF-8 text file (of any path type), without the byte order mark that some editors put in front.

    Raises:
        DataError: there is no such file, or it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise DataError(f"{path} is not UTF-8 text ({where}); save it as UTF-8") from None
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Parse one TOML file; a syntax error names the file and the line."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: {error}") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank; spaces within a line are not touched."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def read_csv(path: Path) -> list[dict[str, str]]:
    """A CSV file as one dict a row; a row with too many or too few cells is refused by its line number."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise DataError(f"{path}:{reader.line_num}: expected {len(reader.fieldnames or [])} cells")
        rows.append(row)
    return rows
