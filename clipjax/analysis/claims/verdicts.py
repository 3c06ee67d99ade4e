"""Verdicts on claims as tables and records.

    print_table(*summary(verdicts))     # one line per claim
    print_table(*measured(verdicts))    # one line per measured part

`export` writes Markdown or JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from clipjax.analysis.claims.claims import FAILS, HOLDS, RULE, UNKNOWN, Finding, Verdict
from clipjax.analysis.claims.ledger import Claim, Part
from clipjax.analysis.claims.placebo import Placebo
from clipjax.analysis.rows.cells import term_of
from clipjax.results.row import Row
from clipjax.results.tables import as_markdown, model_name

Table = tuple[list[str], list[list[str]]]
FORMATS = ("table", "markdown", "json")


def summary(verdicts: Sequence[Verdict]) -> Table:
    cells = [
        [each.word, each.claim.key, each.claim.section, _fared(each), each.claim.statement]
        for each in verdicts
    ]
    return ["verdict", "claim", "section", "its parts", "statement"], cells


def _fared(verdict: Verdict) -> str:
    """E.g. "holds: 4, inconclusive: 1"."""
    lacking = "no task yet" if verdict.claim.no_task else "not measured"
    words = Counter(finding.word if finding.measured else lacking for finding in verdict.findings)
    return ", ".join(f"{word}: {words[word]}" for word in (HOLDS, FAILS, UNKNOWN, lacking) if words[word])


def measured(verdicts: Sequence[Verdict]) -> Table:
    cells = [
        [verdict.claim.key, *_of(each.part), each.word, *_numbers(each)]
        for verdict in verdicts
        for each in verdict.findings
        if each.measured
    ]
    titles = ["claim", "statistic", "of", "verdict", "must be", "value", "interval", "level", "n", "units"]
    return [*titles, "placebo", "margin", "trend's residuals", "beyond it"], cells


def unmeasured(verdicts: Sequence[Verdict]) -> Table:
    cells = [
        [verdict.claim.key, *_of(each.part), each.why or ""]
        for verdict in verdicts
        for each in verdict.findings
        if not each.measured
    ]
    return ["claim", "statistic", "of", "inconclusive"], cells


def used(verdicts: Sequence[Verdict]) -> Table:
    cells = [
        [verdict.claim.key, *_of(each.part), *_cells(_row(row))]
        for verdict in verdicts
        for each in verdict.findings
        for row in each.rows
    ]
    return ["claim", "statistic", "of", "model", "row", "value", "origin", "run"], cells


def left_out(verdicts: Sequence[Verdict]) -> Table:
    """One line per number that is not of a whole data set."""
    cells = {
        (verdict.claim.key, *_of(each.part), words): None
        for verdict in verdicts
        for each in verdict.findings
        for words in each.left_out
    }
    return ["claim", "statistic", "of", "left out, not of a whole data set"], list(map(list, cells))


def _of(part: Part) -> tuple[str, str]:
    return part.statistic, str(part)


def _numbers(each: Finding) -> list[str]:
    interval = f"[{each.lo:+.4f}, {each.hi:+.4f}]"
    return [
        each.part.bound,
        f"{each.value:+.4f}",
        interval,
        f"{each.level:.4g}",
        " and ".join(map(str, each.n)),
        units(each),
        *of_placebo(each.placebo),
        *of_trend(each),
    ]


def of_trend(each: Finding) -> tuple[str, str]:
    """Mean residuals of the trend's own models by thirds of x, and how many of the group are beyond it."""
    if each.extrapolated is None:
        return "", ""
    thirds = () if each.bend is None else each.bend.thirds
    return " ".join(f"{third:+.3f}" for third in thirds), f"{each.extrapolated} of {each.n[0]}"


def units(each: Finding) -> str:
    """E.g. "6 and 17 runs"."""
    name = {"run": "runs", "family": "families", "model": "models"}[each.part.unit]
    return f"{' and '.join(map(str, each.units))} {name}"


def of_placebo(found: Placebo | None) -> tuple[str, str]:
    """The share of random splits that are as far off, and the margin in units of their usual difference."""
    if found is None:
        return "", ""
    share = "too few splits" if found.few else f"{found.share:.3f} ({found.splits} splits)"
    return share, "" if found.margin is None else f"{found.margin:.2g} x {found.spread:.4f}"


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{value:.4f}" if name == "value" else value for name, value in row.items()]


def _row(row: Row) -> dict[str, Any]:
    return {
        "model": model_name(row),
        "row": str(term_of(row)),
        "value": row["value"],
        "origin": row["origin"],
        "run": row["run_id"],
    }


def export(verdicts: Sequence[Verdict], form: str, rows: bool = False) -> str:
    """Write verdicts as "markdown" (summary and measured parts) or "json"; `rows` adds every row used."""
    if form == "json":
        records = [_record(verdict, rows) for verdict in verdicts]
        return json.dumps({"rule": RULE, "claims": records}, indent=2, ensure_ascii=False) + "\n"
    tables = [summary(verdicts), measured(verdicts), *([used(verdicts)] if rows else []), left_out(verdicts)]
    return "\n".join([f"{RULE}\n", *(as_markdown(*table) for table in tables if table[1])])


def _record(verdict: Verdict, rows: bool) -> dict[str, Any]:
    parts = [_of_finding(each, rows) for each in verdict.findings]
    return {**about(verdict.claim), "verdict": verdict.word, "parts": parts}


def about(claim: Claim) -> dict[str, Any]:
    names = ("key", "section", "statement", "beware", "no_task", "needs")
    return {name: getattr(claim, name) for name in names}


def of_part(part: Part) -> dict[str, Any]:
    return {
        "statistic": part.statistic,
        "of": str(part),
        "must_be": part.bound,
        "terms": [str(term) for column in part.columns() for term in column.terms],
    }


def _of_finding(each: Finding, rows: bool) -> dict[str, Any]:
    record = {
        **of_part(each.part),
        "verdict": each.word,
        "value": each.value,
        "interval": _interval(each) if each.measured else None,
        "n": list(each.n),
        "rows": len(each.rows),
        "unit": each.part.unit,
        "units": list(each.units),
        "placebo": _placebo(each.placebo),
        "curvature": each.bend and dataclasses.asdict(each.bend),
        "extrapolated": each.extrapolated,
        "runs": each.runs(),
        "why": each.why,
        "left_out": list(each.left_out),
    }
    return record | {"rows_used": [_row(row) for row in each.rows]} if rows else record


def _placebo(found: Placebo | None) -> dict[str, Any] | None:
    if found is None:
        return None
    record = dataclasses.asdict(found)
    return record | {"spread": None if math.isnan(found.spread) else found.spread, "ordinary": found.ordinary}


def _interval(each: Finding) -> dict[str, Any]:
    """Infinite limits (too few pairs for the level) become None."""
    lo, hi = (None if limit is None or math.isinf(limit) else limit for limit in (each.lo, each.hi))
    return {"lo": lo, "hi": hi, "level": each.level, "method": each.method}
