"""Names of the members of archives, which anyone may have written."""

from __future__ import annotations


def wrong_member_name(name: str) -> str | None:
    """Say what is wrong with a member's name, as the end of a sentence that begins with it; None if nothing.

    A name is UTF-8 text without NUL and stays in its folder, also where a backslash divides folders.
    """
    if "\0" in name or not (name.isascii() or _is_utf8(name)):
        return "has a name that is not UTF-8 text"
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        return "leaves its folder"
    return None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a surrogate, which stands for a byte that is not text
        return False
    return True
