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
    main = import_module("sphinx.cmd.build").main
    stage(out / "source", PARTS)
    made = out / "html" / STAMP
    made.unlink(missing_ok=True)
    settings = f"-Dnb_execution_cache_path={out / 'notebooks'}"
    folders = [str(out / "source"), str(out / "html")]
    here = str(Path(__file__).parent)
    # -E reads every page anew: a page that did not change may link an anchor that is gone.
    code = main(["-b", "html", "-E", "-W", "--keep-going", "-q", "-c", here, settings, *folders])
    if code == 0:
        made.write_text(digest(), encoding="utf-8")
        print(f"the site: {out / 'html' / 'index.html'}")
    return code


if __name__ == "__main__":
    # Notebooks run in this environment, on the processor, and keep what they make below OUT.
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").resolve()
    os.environ |= {"JAX_PLATFORMS": "cpu", "CLIPJAX_CACHE": str(out / "cache")}
    sys.exit(build(out))
