"""The statements of the study and the rule of their verdicts, from configs/claims.toml."""

from __future__ import annotations

from clipjax.analysis.claims.claims import RULE
from clipjax.analysis.claims.ledger import Claim, ledger
from docs.generate.markdown import code, table, text


def claims_part() -> str:
    """The rule, and a line for each statement."""
    claims = ledger().claims
    parts = sum(len(claim.parts) for claim in claims)
    heads = ["in the paper", "statement", "key", "parts", "beware"]
    counts = f"{len(claims)} statements with {parts} parts:"
    return f"{text(RULE)}\n\n{counts}\n\n" + table(heads, map(_cells, claims))


def _cells(claim: Claim) -> list[str]:
    parts = len(claim.parts)
    needed = str(parts) if claim.needs == parts else f"{parts}, of which {claim.needs} must hold"
    return [
        text(claim.section),
        text(claim.statement),
        code(claim.key),
        needed,
        text(claim.no_task or claim.beware or ""),
    ]
