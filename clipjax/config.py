"""Where configs/ lies.

The wheel carries configs/ as `clipjax/configs`; a checkout (and an editable install) has it beside the
package.
"""

from __future__ import annotations

import functools
from pathlib import Path

from clipjax.errors import DataError


@functools.cache
def config_dir() -> Path:
    """The folder with models.csv, archs/, datasets/, prompts/, labels/ and tokenizers/."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "models.csv").is_file():
            return candidate
    raise DataError(f"configs/ not found beside {package}; reinstall clipjax")
