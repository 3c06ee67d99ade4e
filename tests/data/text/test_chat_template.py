"""Chat templates: known ones against transformers, hostile ones against the limits."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from _long import mostly_long
from transformers.utils.chat_template_utils import render_jinja_template

from clipjax.data.text import template_limits
from clipjax.data.text.chat_template import ChatTemplate
from clipjax.errors import DataError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": " Be <b>terse</b> & plain. "},
    {"role": "user", "content": "a & b"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nno"},
    {"role": "user", "content": " why?\n"},
]
SEEING = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]

# In the manner of the templates of Llama 3, Qwen 3, Mistral, Vicuna and LLaVA: what they use of Jinja.
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{#- the system message #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|system|>\\n" ~ date_string + "\\n" + system_message }}
{%- if tools is not none %}{{- "tools: " }}{{ tools | tojson(indent=4) }}{%- endif %}
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\\n\\n' + message['content'] | trim + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n\\n' }}{%- endif %}"""
QWEN = """{%- set ns = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == "user" and not(message.content.startswith('<tool>')) %}
        {%- set ns.open = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {{- "[" ~ thought ~ "]" }}
    {%- endif %}
    {{- loop.index ~ message.role + content }}{{ '!' if loop.last else ',' }}{{ ns.last }}
    {%- if message.tool_calls %}{{ message.tool_calls | tojson }}{%- endif %}
    {%- if loop.index0 > 90 %}{%- break %}{%- endif %}
{%- endfor %}"""
MISTRAL = """{%- macro turn(message, mark='[INST]') -%}
    {{ mark }} {{ message.content | replace('&', 'and') }} [/INST]
{%- endmacro -%}
{%- set pairs = [] %}
{%- for key, value in messages[0].items() %}{%- set pairs = pairs + [key ~ ': ' ~ value] %}{%- endfor %}
{{- pairs | join(', ') }}
{%- for message in messages | rejectattr('role', 'equalto', 'system') | list %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}
    {{- turn(message) if message.role == 'user' else turn(message, mark='<' ~ '%02d' % loop.index ~ '>') }}
{%- endfor %}
{{- messages | map(attribute='role') | unique | sort | join('+') | upper }}
{{- '{:>6}|{:.2f}'.format(messages | length, 0.5) }}
{{- 'some' if messages | selectattr('role', 'equalto', 'none') }}
{{ (messages | tojson).replace('"', "'") }}"""
VICUNA = """{% for message in messages %}{% if loop.first %}{{ message['content'] + ' ' }}{% else %}
{{ message['role'].upper() + ': ' + message['content'] | string | trim | indent(2) + ' ' }}
{% endif %}{% endfor %}
{{ 'ASSISTANT:' if add_generation_prompt }}"""
LLAVA = """{% for message in messages %}{{ message['role'].upper() ~ ': ' }}
{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}
{% for part in message['content'] if part.type == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"""


@pytest.mark.parametrize(
    ("template", "chat"),
    [(LLAMA, CHAT), (LLAMA, CHAT[1:]), (QWEN, CHAT), (MISTRAL, CHAT), (VICUNA, CHAT), (LLAVA, SEEING)],
)
def test_known_forms_are_written_as_transformers_writes_them(template: str, chat: Any) -> None:
    options: dict[str, Any] = {"add_generation_prompt": True, **TOKENS}
    [expected], _ = render_jinja_template([chat], chat_template=template, **options)
    assert ChatTemplate(template, "f").render(chat, TOKENS) == expected
    assert len(expected) > 25


def test_a_long_conversation_is_within_the_limits() -> None:
    chat = [{"role": "user" if i % 2 else "assistant", "content": f"{i} " * 500} for i in range(300)]
    for template in (LLAMA, VICUNA):
        assert len(ChatTemplate(template, "f").render(chat, TOKENS)) > 300_000


DOUBLED = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}END"


def doubled(start: str, step: str, end: str = "") -> str:
    return DOUBLED.replace("START", start).replace("STEP", step).replace("END", end)


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
RUNS_ON = {
    "nested ranges": NESTED.replace("BODY", ""),
    "nested ranges that write": NESTED.replace("BODY", "{{ a }}"),
    "a condition that is never true": (
        "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}"
    ),
    "a recursive loop": "{% for a in [1, 2] recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "macros that double": "".join(
        f"{{% macro m{i}() %}}{{{{ m{i - 1}() if {i} }}}}{{{{ m{i - 1}() if {i} }}}}{{% endmacro %}}"
        for i in range(40)
    )
    + "{{ m39() }}",
    "blocks that double": "".join(
        f"{{% block b{i} %}}{{{{ self.b{i - 1}() if {i} }}}}{{{{ self.b{i - 1}() if {i} }}}}{{% endblock %}}"
        for i in range(25)
    ),
    "a filter in a loop": "{% for a in range(99999) %}{{ range(99999) | max }}{% endfor %}",
    "a search in a loop": "{% set x = 'a' * 999999 %}{% for a in range(99999) %}{{ 'b' in x }}{% endfor %}",
    "a slice in a loop": "{% set x = 'a' * 99999 %}{% for a in range(9999) %}{% set y = x[1:] %}{% endfor %}",
    "attributes in a loop": "{% for a in range(99999) %}{{ range(99) | map(attribute='real"
    + ".real" * 999
    + "') | list }}"
    "{% endfor %}",
    "lists of lists compared": doubled("[1]", "[ns.x, ns.x]", "{{ ns.x == ns.x + [] }}"),
    "tuples of tuples as a key": doubled("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1}[ns.x] }}"),
    "tuples made by a macro": "{% macro m() %}{{ caller(varargs) }}{% endmacro %}"
    + doubled("(1,)", "ns.x * 2", "{% call(x) m(ns.x, ns.x) %}{{ {x: 1} }}{% endcall %}"),
    "a deep list": DOUBLED.replace("60", "99999")
    .replace("START", "1")
    .replace("STEP", "[ns.x]")
    .replace("END", "")
    + "{{ ns.x == [ns.x] }}{% for i in range(99) %}{{ ns.x == 1 }}{% endfor %}",
    "large numbers": doubled("9", "ns.x * ns.x"),
    "a power": "{{ 9 ** 9 ** 9 ** 9 }}",
}
GROWS = {
    "a repeated text": "{{ 'a' * 10**10 }}",
    "a repeated list": "{{ ([0] * 10**9) | length }}",
    "doubled texts": doubled("'a'", "ns.x ~ ns.x"),
    "added texts": doubled("'a'", "ns.x + ns.x"),
    "a doubled block": doubled("'a'", "ns.x").replace(
        "{% set ns.x = ns.x %}", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    ),
    "literal text": "{% set y %}{% for i in range(99999) %}" + "a" * 50_000 + "{% endfor %}{% endset %}",
    "a filter for width": "{{ 'a' | center(10**9) }}",
    "a method for width": "{{ 'a'.ljust(10**9) }}",
    "a format's width": "{{ '{:999999999}'.format(1) }}",
    "a format's width elsewhere": "{{ '{:{w}}'.format(1, w=10**9) }}",
    "a percent's width": "{{ '%999999999d' % 1 }}",
    "a percent's star": "{{ '%*d' % (10**9, 1) }}",
    "a filter's format": "{{ '%999999999d' | format(1) }}",
    "a test that formats": "{{ '%999999999d' is odd }}",
    "an indent": "{{ 'a\\nb' | indent(10**9) }}",
    "a JSON's indent": "{{ [[1]] | tojson(indent=10**9) }}",
    "a joined list": "{{ range(99999) | join('a' * 99999) }}",
    "a joined list by method": "{{ ('a' * 99999).join(['b'] * 99999) }}",
    "a replaced text": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "a replaced text by method": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "tabs": "{{ ('\\t' * 999).expandtabs(10**9) }}",
    "a table of texts": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "a batch": "{{ [1] | batch(10**9, 0) | list }}",
    "slices": "{{ [1] | slice(10**9) | list }}",
    "a rounded number": "{{ 1 | round(10**9) }}",
    "lists of lists": doubled("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "lists of lists as JSON": doubled("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"),
    "lists of lists as text": doubled("[1]", "[ns.x, ns.x]", "{{ ns.x | string }}"),
    "lists of lists joined": doubled("[1]", "[ns.x, ns.x]", "{{ ns.x | join }}"),
    "lists of lists formatted": doubled("[1]", "[ns.x, ns.x]", "{{ '%s' % [ns.x] }}"),
    "a long source": "{#" + " " * 100_000 + "#}",
}
VARIES = {
    "a random item": "{{ [1, 2, 3] | random }}",
    "random words": "{{ lipsum() }}",
    "the address of a method": "{{ 'a'.upper }}",
    "the address of a generator": "{{ messages | map(attribute='role') }}",
    "the address in a list": "{{ ['a'.upper] | string }}",
    "the address in JSON": "{{ ['a'.upper] | join }}",
    "the address by format": "{{ '{}'.format('a'.upper) }}",
    "the order of a set": "{{ {'a': 1, 'b': 2}.keys() - [] }}",
    "today": "{{ strftime_now('%d') }}",
}
# In a process of its own, which may take 3 GB: none of these may come near it.
PROGRAM = """
import json, resource, sys, time
import jinja2, jinja2.ext, jinja2.sandbox
from clipjax.data.text.chat_template import ChatTemplate
from clipjax.errors import DataError
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
for name, template in json.load(sys.stdin).items():
    start = time.process_time()
    try:
        print(name, "is written as", ChatTemplate(template, "x.jinja").render([], {})[:80])
    except DataError as error:
        if not str(error).startswith("x.jinja: the chat template do") or "MemoryError" in str(error):
            print(name, error)
    if time.process_time() - start > 10:
        print(name, "takes", time.process_time() - start)
"""


HOSTILE = {"run on": RUNS_ON, "grow or vary": GROWS | VARIES}
LIMITED = "data/text/test_chat_template.py::test_the_limit_is_what_ends_it"


@pytest.mark.parametrize("templates", mostly_long(HOSTILE, ["grow or vary"], LIMITED))
def test_hostile_templates_end_soon_in_little_memory(templates: str) -> None:
    text = json.dumps(HOSTILE[templates])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=text, capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("name", RUNS_ON)
def test_the_limit_is_what_ends_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that fails for another reason shows nothing. Lower limits, to be sooner at the end."""
    monkeypatch.setattr(template_limits, "STEPS", 50_000)
    monkeypatch.setattr(template_limits, "CHARACTERS", 1_000_000)
    with pytest.raises(DataError, match="does more than a conversation needs"):
        ChatTemplate(RUNS_ON[name], "f").render([], TOKENS)


def test_limits_are_counted_for_each_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "STEPS", 1000)
    template = ChatTemplate("{% for i in range(COUNT) %}{{ i }}{% endfor %}".replace("COUNT", "90"), "f")
    assert [len(template.render([], TOKENS)) for _ in range(3)] == [170] * 3
    with pytest.raises(DataError, match=r"f: the chat template .* more than 1,000 steps"):
        ChatTemplate(template.text.replace("90", "990"), "f").render([], TOKENS)
