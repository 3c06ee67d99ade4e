"""Chat templates: the text that a model was trained to read for a conversation, as Jinja in its checkpoint.

Templates come with weights from anywhere, so they run in the sandbox of Jinja, within the limits of
`template_limits`. The environment is transformers 5.24's (`utils/chat_template_utils.py`) without the date of
today: a prompt is the same tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
    # Loaded late, here and below: only models that answer have a template.
    from jinja2 import Undefined

    names = _names()
    meter = Meter((Undefined, names))
    environment = _environment(meter)
    kept = {name: environment.globals[name] for name in GLOBALS}
    environment.globals = {**kept, "namespace": names, "dict": _dict, "raise_exception": _raise}
    environment.filters = _filters(environment.filters, meter)
    environment.tests = {name: meter.test(name, each) for name, each in environment.tests.items()}
    tree = environment.parse(source)
    _count_in(tree)
    return environment.from_string(tree)


def _names() -> type:
    from jinja2.utils import Namespace

    class Names(Namespace):
        def __repr__(self) -> str:  # Jinja's writes what it holds: perhaps itself
            return "<Namespace>"

    return Names


def _environment(meter: Meter) -> Any:
    """Jinja's sandbox, in which operators, subscripts and calls are counted."""
    from jinja2.ext import loopcontrols
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    formatter = _formatter(meter)

    class Metered(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(OPERATORS)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            return meter.operate(operator, left, right)

        def getitem(self, obj: Any, argument: Any) -> Any:
            return super().getitem(obj, meter.read(argument))

        def wrap_str_format(self, value: Any) -> Any:
            return None if super().wrap_str_format(value) is None else formatter(self).counted(value)

        # The underscores: a template's keyword may be `self` or `context`.
        def call(_self, _context: Any, _called: Any, *values: Any, **named: Any) -> Any:
            """Charge a call's arguments, refuse methods that no template needs, call, charge the result.

            A macro is a part of the template, whose own steps are charged: only its tuples are read here.
            """
            if isinstance(_called, Macro):
                meter.step(1 + len(values) + len(named))
                values = tuple(meter.read(each) if isinstance(each, tuple) else each for each in values)
            else:
                meter.read([*values, *named.values()])
            if isinstance(_called, BuiltinMethodType):
                meter.method(_called.__self__, _called.__name__, values)
            return meter.look(super().call(_context, _called, *values, **named))

    return Metered(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], optimized=False)


def _formatter(meter: Meter) -> Any:
    """Jinja's class that runs `str.format` in the sandbox, with every field charged to `meter`."""
    from jinja2.sandbox import SandboxedFormatter

    class Formatter(SandboxedFormatter):
        def format_field(self, value: Any, format_spec: str) -> Any:
            meter.field(value, format_spec)
            return super().format_field(value, format_spec)

        def convert_field(self, value: Any, conversion: Any) -> Any:
            return super().convert_field(meter.write(value), conversion)

        def counted(self, method: Any) -> Callable[..., str]:
            """The function that templates call in place of a text's method `format` or `format_map`."""
            text, mapped = method.__self__, method.__name__ == "format_map"

            def write(*values: Any, **named: Any) -> str:
                named = {**values[0]} if mapped else named
                return self.vformat(meter.look(text), () if mapped else values, named)

            return write

    return Formatter


def _filters(own: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """Jinja's filters for templates, and those of `_count_in`, whose names no template can write."""
    kept = {**{name: each for name, each in own.items() if name in FILTERS}, "tojson": _json}
    return {
        **{name: meter.filter(name, each) for name, each in kept.items()},
        "format": lambda text, *values, **named: meter.percent(str(text), named or values),
        "*step": meter.step,
        "*look": meter.look,
        "*read": meter.read,
        "*write": meter.write,
    }


def _count_in(tree: Any) -> None:
    """Make a parsed template count what passes no operator, filter, test or call."""
    from jinja2 import nodes

    sizes = _sizes(tree)

    def counted(kind: str, node: Any, *arguments: Any) -> Any:
        """`node | *kind`"""
        every = [nodes.Const(each) for each in arguments]
        filtered = nodes.Filter(node, f"*{kind}", every, [], None, None, lineno=node.lineno)
        return filtered.set_environment(tree.environment)

    def step(node: Any) -> Any:
        steps, characters = sizes[id(node)]
        return counted("step", nodes.Const(steps, lineno=node.lineno), characters)

    for node in [tree, *tree.find_all(nodes.Node)]:
        # {% for x in xs if x > 1 %}: the condition runs also where the body does not.
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(step(node), node.test, lineno=node.lineno)
        # Each repetition is charged with all nodes in it: a body of 100 nodes in a loop of 1,000
        # rounds with 100,000 steps.
        if isinstance(node, (nodes.Template, nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            node.body.insert(0, nodes.ExprStmt(step(node), lineno=node.lineno))
        # {{ x }} and x ~ y write all that x holds. Literal text was charged with its body.
        if isinstance(node, (nodes.Output, nodes.Concat)):
            node.nodes = [
                each if isinstance(each, nodes.TemplateData) else counted("write", each)
                for each in node.nodes
            ]
        if isinstance(node, nodes.Compare):  # x == y reads all that both hold
            for side in (node, *node.ops):
                side.expr = counted("read", side.expr)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):  # x[1:] is a copy
            node.node = counted("look", node.node)
        # A key's hash reads all that it holds, and so does a tuple's, which may be a key.
        if isinstance(node, nodes.Pair):
            node.key = counted("read", node.key)
        if isinstance(node, nodes.Tuple) and node.ctx == "load":
            node.items = [counted("read", each) for each in node.items]


def _sizes(tree: Any) -> dict[int, tuple[int, int]]:
    """id of a node -> how many nodes are in it, itself included, and characters of literal text."""
    from jinja2 import nodes

    sizes: dict[int, tuple[int, int]] = {}

    def measure(node: Any) -> tuple[int, int]:
        count, characters = 1, len(node.data) if isinstance(node, nodes.TemplateData) else 0
        for child in node.iter_child_nodes():
            below = measure(child)
            count += below[0]
            characters += below[1]
        sizes[id(node)] = count, characters
        return sizes[id(node)]

    measure(tree)
    return sizes


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
