"""The sources of published numbers, from configs/reference_sources.toml."""

from __future__ import annotations

from clipjax.results.published.references import sources
from docs.generate.markdown import code, table, text


def published_sources_part() -> str:
    """A line for each: where it is from, and how its authors measured."""
    heads = ["source", "what it is", "licence", "how it was measured"]
    rows = [
        [code(name), f"[{text(each['title'])}]({each['url']})", text(each["licence"]), text(each["measured"])]
        for name, each in sources().items()
    ]
    return table(heads, rows)
