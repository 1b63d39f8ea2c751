"""A report as plain data, for `--json`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery import Report


def report_data(report: Report) -> dict[str, Any]:
    """The content of a report as JSON-compatible values."""
    reasons = Counter(reason for _, reason in report.plan.kept)
    return {
        "model": report.before.model_kind,
        "rules": [str(rule) for rule in report.plan.rules],
        "calls_before": len(report.before),
        "calls_after": len(report.after),
        "edits": [
            {
                "site": str(edit.site),
                "block": edit.site.block,
                "was": edit.site.activation,
                "is": edit.make,
                "params": dict(edit.params),
                "fade": edit.fade,
            }
            for edit in report.plan.edits
        ],
        "kept": [{"reason": reason, "calls": count} for reason, count in reasons.most_common()],
        "new_parameters": list(report.added),
    }
