"""Chat templates: the text that a model was trained to read for a conversation, as Jinja in its checkpoint.

Templates come with weights from anywhere, so they run in the sandbox of Jinja, within the limits of
`template_limits`. The environment is transformers 5.24's (`utils/chat_template_utils.py`) without the date of
today: a prompt is the same tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinMethodType
from typing import Any

from clipjax.data.text.template_limits import FILTERS, GLOBALS, OPERATORS, SOURCE, LimitError, Meter
from clipjax.errors import DataError, UsageError

# {"role": "user", "content": "..."}; to a model that sees, a list of {"type": "image"} and {"type": "text",
# "text": "..."}.
Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """A template of a checkpoint.

    Attributes:
        text: Jinja.
        where: the file, for errors.
    """

    text: str
    where: str

    def render(self, messages: Sequence[Message], tokens: Mapping[str, str]) -> str:
        """The text of a conversation, up to where the model's answer begins.

        Args:
            messages: each with a "role", and a "content" of text or parts.
            tokens: the tokenizer's own, by name: {"bos_token": "<s>", ...}.

        Raises:
            UsageError: a message that is not one.
            DataError: a template that fails, refuses these messages, or exceeds `template_limits`.
        """
        for message in messages:
            if not _is_message(message):
                raise UsageError(f"{message!r} is not a message: it needs a role and a content, both text")
        # As transformers: a template asks whether there are tools.
        values: dict[str, Any] = {"tools": None, "documents": None, **tokens}
        values["messages"] = [dict(message) for message in messages]
        try:
            if len(self.text) > SOURCE:
                raise LimitError(f"it has more than {SOURCE:,} characters")
            return _program(self.text).render(**values, add_generation_prompt=True)
        except LimitError as error:
            raise DataError(
                f"{self.where}: the chat template does more than a conversation needs ({error}): do not use "
                "it, or give the prompt as text"
            ) from None
        except Exception as error:  # a template may fail as any program does
            kind, said = type(error).__name__, str(error)[:500]  # perhaps a text of the template's own
            raise DataError(
                f"{self.where}: the chat template does not take these messages ({kind}: {said})"
            ) from None


def _program(source: str) -> Any:
    """A compiled template of Jinja that counts its work with a `Meter` of its own."""
    # Loaded late: only models that answer have a template.
    from jinja2 import Undefined
    from jinja2.ext import loopcontrols
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
    from jinja2.utils import Namespace

    class Names(Namespace):
        def __repr__(self) -> str:  # Jinja's writes what it holds: perhaps itself
            return "<Namespace>"

    meter = Meter((Undefined, Names))

    class Formatter(SandboxedFormatter):
        def format_field(self, value: Any, format_spec: str) -> Any:
            meter.field(value, format_spec)
            return super().format_field(value, format_spec)

        def convert_field(self, value: Any, conversion: Any) -> Any:
            return super().convert_field(meter.write(value), conversion)

    class Metered(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(OPERATORS)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            return meter.operate(operator, left, right)

        def getitem(self, obj: Any, argument: Any) -> Any:
            return super().getitem(obj, meter.read(argument))

        def wrap_str_format(self, value: Any) -> Any:
            if super().wrap_str_format(value) is None:
                return None
            text, mapped = value.__self__, value.__name__ == "format_map"

            def write(*values: Any, **named: Any) -> str:
                named = {**values[0]} if mapped else named
                return Formatter(self).vformat(meter.look(text), () if mapped else values, named)

            return write

        def call(_self, _context: Any, _called: Any, *values: Any, **named: Any) -> Any:
            if isinstance(_called, Macro):
                meter.step(1 + len(values) + len(named))
                values = tuple(meter.read(each) if isinstance(each, tuple) else each for each in values)
            else:
                meter.read([*values, *named.values()])
            if isinstance(_called, BuiltinMethodType):
                meter.method(_called.__self__, _called.__name__, values)
            return meter.look(super().call(_context, _called, *values, **named))

    environment = Metered(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], optimized=False)
    kept = {name: environment.globals[name] for name in GLOBALS}
    environment.globals = {**kept, "namespace": Names, "dict": _dict, "raise_exception": _raise}
    filters = {name: each for name, each in environment.filters.items() if name in FILTERS}
    filters["tojson"] = _json
    environment.filters = {name: meter.filter(name, each) for name, each in filters.items()}
    environment.filters |= {
        "format": lambda text, *values, **named: meter.percent(str(text), named or values)
    }
    environment.filters |= {
        "*step": meter.step,
        "*look": meter.look,
        "*read": meter.read,
        "*write": meter.write,
    }
    environment.tests = {name: meter.test(name, each) for name, each in environment.tests.items()}
    tree = environment.parse(source)
    _count_in(tree)
    return environment.from_string(tree)


def _count_in(tree: Any) -> None:
    """Make a parsed template count what passes no operator, filter, test or call."""
    from jinja2 import nodes

    def counted(kind: str, node: Any, *arguments: Any) -> Any:
        """`node | *kind`: no template can write such a filter's name."""
        every = [nodes.Const(each) for each in arguments]
        filtered = nodes.Filter(node, f"*{kind}", every, [], None, None, lineno=node.lineno)
        return filtered.set_environment(tree.environment)

    sizes: dict[int, tuple[int, int]] = {}

    def measure(node: Any) -> tuple[int, int]:
        """Nodes below, and characters of literal text."""
        below = [measure(each) for each in node.iter_child_nodes()]
        own = len(node.data) if isinstance(node, nodes.TemplateData) else 0
        sizes[id(node)] = 1 + sum(part[0] for part in below), own + sum(part[1] for part in below)
        return sizes[id(node)]

    def step(node: Any) -> Any:
        steps, characters = sizes[id(node)]
        return counted("step", nodes.Const(steps, lineno=node.lineno), characters)

    measure(tree)
    for node in [tree, *tree.find_all(nodes.Node)]:
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(step(node), node.test, lineno=node.lineno)
        if isinstance(node, (nodes.Template, nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            node.body.insert(0, nodes.ExprStmt(step(node), lineno=node.lineno))
        if isinstance(node, (nodes.Output, nodes.Concat)):
            node.nodes = [
                each if isinstance(each, nodes.TemplateData) else counted("write", each)
                for each in node.nodes
            ]
        if isinstance(node, nodes.Compare):
            for part, name in ((node, "expr"), *((operand, "expr") for operand in node.ops)):
                setattr(part, name, counted("read", getattr(part, name)))
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node.node = counted("look", node.node)
        if isinstance(node, nodes.Pair):
            node.key = counted("read", node.key)
        if isinstance(node, nodes.Tuple) and node.ctx == "load":  # its hash reads all that it holds
            node.items = [counted("read", each) for each in node.items]


def _is_message(message: Any) -> bool:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return all(
        isinstance(part, Mapping) and (part.get("type") == "image" or isinstance(part.get("text"), str))
        for part in parts
    )


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers': without Jinja's escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _dict(*values: Any, **named: Any) -> dict[Any, Any]:
    return dict(*values, **named)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
