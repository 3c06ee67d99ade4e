"""Chat templates: the text that a model was trained to read for a conversation, as Jinja in its checkpoint.

Templates come with weights from anywhere, so they run in the sandbox of Jinja. The environment is
transformers 5.24's (`utils/chat_template_utils.py`) without the date of today: a prompt is the same tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.errors import DataError, UsageError

# {"role": "user", "content": "..."}; to a model that sees, a list of {"type": "image"} and {"type": "text",
# "text": "..."}.
Message = Mapping[str, Any]


def render_chat(template: str, messages: Sequence[Message], tokens: Mapping[str, str], where: str) -> str:
    """The text of a conversation, up to where the model's answer begins.

    Args:
        messages: each with a "role", and a "content" of text or parts.
        tokens: the tokenizer's own, by name: {"bos_token": "<s>", ...}.

    Raises:
        UsageError: a message that is not one.
        DataError: a template that fails, or refuses these messages.
    """
    from jinja2.ext import loopcontrols  # loaded late: only models that answer have a template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    for message in messages:
        if not _is_message(message):
            raise UsageError(f"{message!r} is not a message: it needs a role and a content, both text")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _raise
    values: dict[str, Any] = {"messages": [dict(message) for message in messages], **tokens}
    try:
        return environment.from_string(template).render(**values, add_generation_prompt=True)
    except Exception as error:  # a template may fail as any program does
        raise DataError(
            f"{where}: the chat template does not take these messages ({type(error).__name__}: {error})"
        ) from None


def _is_message(message: Any) -> bool:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return all(
        isinstance(part, Mapping) and (part.get("type") == "image" or isinstance(part.get("text"), str))
        for part in parts
    )


def _json(value: Any, indent: int | None = None) -> str:
    """Without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
