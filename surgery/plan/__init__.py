"""Plan: rules, the sites they pick, the edits that result, and the report of what was done."""

from surgery.plan.plan import Edit as Edit
from surgery.plan.plan import Plan as Plan
