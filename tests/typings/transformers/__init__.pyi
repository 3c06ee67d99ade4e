"""What pyright sees of transformers: every name, of any type.

Its own __init__ imports some 4,000 modules by `*`. Reading them took pyright half of its time, and so much
memory that it forgot other modules and read them again.
"""

from typing import Any

def __getattr__(name: str) -> Any: ...
