"""The reference's process ends with the process that started it, however that one ends.

Imported first: the number of the parent is another as soon as the parent has gone.
"""

from __future__ import annotations

import os
import threading
import time

_PARENT = os.getppid()
_TICK = 1.0  # seconds


def end_with_parent() -> None:
    """From now on exit when the parent has gone."""

    def wait() -> None:
        while os.getppid() == _PARENT:
            time.sleep(_TICK)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
