"""Builds the site: `python -m docs.generate [OUT]`, into build/docs without OUT; the pages are in OUT/html.

Any warning of Sphinx is an error.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from docs.generate.parts import PARTS
from docs.generate.stage import ROOT, digest, stage

STAMP = "sources.sha256"


def build(out: Path) -> int:
    """Build the site. Returns Sphinx's exit code."""
    from docs.generate.world import world

    sources = digest()
    stage(out / "source", PARTS)
    made = out / "html" / STAMP
    made.unlink(missing_ok=True)
    os.environ["CLIPJAX_DEMO"] = str(world(out))
    main = import_module("sphinx.cmd.build").main
    settings = f"-Dnb_execution_cache_path={out / 'notebooks'}"
    folders = [str(out / "source"), str(out / "html")]
    here = str(Path(__file__).parent)
    # -E reads every page anew: a page that did not change may link an anchor that is gone.
    code = main(["-b", "html", "-E", "-W", "--keep-going", "-q", "-c", here, settings, *folders])
    if code == 0:
        made.write_text(sources, encoding="utf-8")
        print(f"the site: {out / 'html' / 'index.html'}")
    return code


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").resolve()
    # Notebooks inherit this: they run on the processor, keep compiled programs, and see no cache of the user.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(out / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "XLA_FLAGS": "--xla_backend_optimization_level=1",
        "CLIPJAX_CACHE": str(out / "cache"),
    }
    sys.exit(build(out))
