"""Deploy: does an edited network run where it must, and what becomes of its activations there."""

from surgery.activations.support import Support
from surgery.activations.support import support as table
from surgery.deploy.agreement import check, export, targets
from surgery.deploy.report import Report
from surgery.deploy.swaps import rules_for
from surgery.deploy.target import Target

__all__ = ["Report", "Support", "Target", "check", "export", "rules_for", "table", "targets"]


def __dir__() -> list[str]:
    return __all__
