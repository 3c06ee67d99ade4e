"""End the reference's process when its parent process ends, for whatever reason.

Import this first: the parent's process id changes as soon as the parent ends.
"""

from __future__ import annotations

import os
import threading
import time

_PARENT = os.getppid()
_TICK = 1.0  # seconds


def end_with_parent() -> None:
    def wait() -> None:
        while os.getppid() == _PARENT:
            time.sleep(_TICK)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
