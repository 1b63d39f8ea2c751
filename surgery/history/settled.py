"""Settled: what a history says once its fades and phases have ended."""

from __future__ import annotations

from surgery.history.history import History

_CHANGING = ("pwlu", "frelu")  # functions that change during training


def mark_settled(history: History) -> None:
    """Write the final form of every function into the steps of a history."""
    for number, step in enumerate(history.steps):
        later = history.steps[number + 1 :]
        replaced = {tuple(edit["site"]) for overriding in later for edit in overriding.data.get("edits", ())}
        for edit in step.data.get("edits", ()):
            if edit["make"] in _CHANGING:
                for name in ("warmup", "alternate", "every"):
                    edit["params"].pop(name, None)
            if edit["fade"] and tuple(edit["site"]) not in replaced:
                edit["fade"] = False
                # The model before the later steps never existed in settled form: no fingerprint to compare with.
                for overriding in later:
                    overriding.fingerprint = None
