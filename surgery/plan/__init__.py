"""Plan: rules, the sites they pick, the edits that follow, and the report of what was done."""
