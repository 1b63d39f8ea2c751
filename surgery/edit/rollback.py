"""Rollback: a function that changes a model changes all that it should, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import Tensor, nn

from surgery.edit.write import put_back
from surgery.isolation.snapshot import snapshot

P = ParamSpec("P")
R = TypeVar("R")


def all_or_nothing(
    written: Callable[..., Iterable[Tensor]] | None = None, *, progress_only: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that changes its first argument, a model: if it raises, the model is rolled back.

    `written` returns, for the same arguments, the tensors that are overwritten. See `snapshot` for `progress_only`.
    """

    def decorate(verb: Callable[P, R]) -> Callable[P, R]:
        @wraps(verb)
        def verb_or_nothing(*args: P.args, **kwargs: P.kwargs) -> R:
            model = args[0] if args else kwargs.get("model")
            before = None
            if isinstance(model, nn.Module):
                tensors = written(*args, **kwargs) if written is not None else ()
                before = snapshot(model, tensors, progress_only=progress_only)
            try:
                return verb(*args, **kwargs)
            except BaseException:
                if before is not None:
                    put_back(before)
                raise

        return verb_or_nothing

    return decorate
