"""The corruptions, from their records, the docstrings of what they apply, and configs/corruptions.toml."""

from __future__ import annotations

import inspect

from clipjax.corruptions.corruption import SEVERITIES, Corruption, constants_of, corruptions
from docs.generate.markdown import code, table, text


def corruptions_part() -> str:
    """A table for each source, with a line for each corruption."""
    by_source: dict[str, list[Corruption]] = {}
    for record in corruptions().values():
        by_source.setdefault(record.source, []).append(record)
    heads = ["name", "definition", "constants, severity 1 to 5", "choices, and what is approximate", "needs"]
    return "".join(
        f"{text(source[:1].upper() + source[1:])}:\n\n{table(heads, map(_cells, records))}"
        for source, records in by_source.items()
    )


def _cells(record: Corruption) -> list[str]:
    function = getattr(record.apply, "func", record.apply)  # of a partial, what it calls
    choices = "; ".join(filter(None, (record.convention, record.approximate)))
    needs = [*record.needs, *filter(None, [record.program])]
    return [
        code(record.name),
        text(inspect.getdoc(function) or ""),
        text(_constants(record.name)),
        text(choices),
        ", ".join(map(code, needs)),
    ]


def _constants(name: str) -> str:
    by_severity = [constants_of(name, severity) for severity in SEVERITIES]
    return "; ".join(
        f"{constant}: {', '.join(f'{values[constant]:g}' for values in by_severity)}"
        for constant in by_severity[0]
    )
