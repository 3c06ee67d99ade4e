"""`clipjax ARGUMENT...` as a process of its own.

python tests/served/_command.py ARGUMENT...
"""

from __future__ import annotations

from clipjax.cli import main

if __name__ == "__main__":
    main()
