"""Context: what the operations around an activation call say about it: its role, its neighbours, its weights."""

from __future__ import annotations

from typing import Any

from surgery.dataflow.extents import is_free
from surgery.dataflow.operations import RECTIFIED, SCORES, SQUASHING
from surgery.dataflow.reach import reach
from surgery.dataflow.trace import SCALING, TRANSPARENT, CallRecord, Op, Trace
from surgery.look.blocks import block_facts

# What happens to scores behind the last layer: they are concatenated, rescaled, pasted into images, transformed
# elementwise, and the best are selected.
_SCORED = ("shape", "scale", "concat", "resize")
_SCORE_ARITHMETIC = (
    "sqrt", "rsqrt", "pow", "__pow__", "exp", "log", "clamp", "clip", "where", "masked_fill", "topk", "sort",
)  # fmt: skip


class Facts:
    """What the operations around each activation call of a trace say about it."""

    def __init__(self, trace: Trace, kind_of: dict[str, str]) -> None:
        self.trace = trace
        self.readers = trace.consumers()
        self.calls = {record.op: k for k, record in enumerate(trace.calls)}
        self.roles = self._roles()
        self.blocks = block_facts(trace, self.roles, kind_of)

    def of(self, index: int) -> dict[str, Any]:
        """The facts of one call, as fields of `Site`."""
        record = self.trace.calls[index]
        return {
            "role": self.roles[index],
            "fed_by": self._fed_by(record),
            "feeds": self._feeds(record),
            "weights": self._weights(record),
            "norm": self._norm(record),
            **self.blocks[index],
        }

    def channels_vary(self, record: CallRecord, axis: int) -> bool:
        """True if the number of channels of a call depends on the size of the example, and no layer fixes it.

        A linear layer or a norm that reads them fixes their number: the model then runs at no other size.
        """

        def varies(op: Op) -> bool:
            same = op.shape == record.shape and op.extents is not None
            return same and is_free(op.extents[axis])  # type: ignore[index]

        def fixes(op: Op) -> bool:
            reads = op.kind == "linear" and bool(self._weight_of(op)) and axis == len(record.shape) - 1
            return reads or (op.shape == record.shape and op.extents is not None and not varies(op))

        call = self.trace.ops[record.op]
        return varies(call) and not any(map(fixes, self.trace.forth(record.op, varies, self.readers)))

    def _fed_by(self, record: CallRecord) -> tuple[str, ...]:
        """Kinds of the nearest producers. An operation that only selects values is not a producer."""
        op = self.trace.ops[record.op]
        producers = self.trace.back(record.op, looked_through)
        kinds = {source.kind for source in producers if source.data or source.kind in ("conv", "linear", "activation")}
        if not op.data:
            return tuple(sorted(kinds)) or ("weight",)
        return tuple(sorted((kinds - {"choice"} or kinds) | (set() if op.traced else {"unknown"})))

    def _feeds(self, record: CallRecord) -> tuple[str, ...]:
        consumers = list(self.trace.forth(record.op, looked_through, self.readers))
        sorts = [op for op in consumers if op.kind == "other" and self.trace.only_chosen_from(op, self.readers)]
        kinds = {"choice" if op in sorts else op.kind for op in consumers}
        return tuple(sorted(kinds | ({"output"} if self._is_returned(record) else set())))

    def _weights(self, record: CallRecord) -> tuple[str, ...]:
        """Weights of the convolutions and linear layers whose outputs arrive here through norms, adds and scalings.

        For a call that takes no data, the weights it is applied to.
        """
        found: dict[str, None] = {}
        for op in self.trace.back(record.op, lambda op: op.kind in (*SCALING, "add", "concat") or _gated(op)):
            if op.kind in ("conv", "linear"):
                found.update(dict.fromkeys(self._weight_of(op)))
        op = self.trace.ops[record.op]
        return tuple(found) if found or op.data else tuple(self._weight_of(op))

    def _norm(self, record: CallRecord) -> str | None:
        """The path of the norm right in front of a call, read off the names of its parameters and buffers."""
        fed = [self.trace.ops[source] for source in self.trace.ops[record.op].inputs]
        names = fed[0].weights if len(fed) == 1 and fed[0].kind == "norm" else ()
        return names[0].rpartition(".")[0] if names else None

    def _weight_of(self, op: Op) -> list[str]:
        """The weight an operation reads: its parameter, or those that a parametrised weight is computed from."""
        paths: dict[str, None] = {}
        todo, seen = [op], {op.index}
        while todo:
            now = todo.pop()
            paths.update(dict.fromkeys(now.weights))
            for made in (self.trace.ops[source] for source in now.inputs if source not in seen):
                seen.add(made.index)
                todo += [made] if not made.data else []
        kernels = [path for path in paths if not path.endswith("bias")]
        return kernels or list(paths)

    def _after(self, start: int, through: Any) -> set[int]:
        def passed(place: int) -> bool:
            return bool(through(self.trace.ops[place]))

        return set(filter(passed, reach(self.readers[start], self.readers.__getitem__, passed)))

    def _is_returned(self, record: CallRecord) -> bool:
        return bool(set(self.trace.outputs) & {record.op, *self._after(record.op, looked_through)})

    def _roles(self) -> list[str]:
        roles = ["nonlinearity"] * len(self.trace.calls)
        for index in reversed(range(len(roles))):  # consumers first: the role depends on theirs
            roles[index] = self._role(self.trace.calls[index], roles)
        places = [record.key[:-1] for record in self.trace.calls]
        on_data = {place: role for place, role in zip(places, roles, strict=True) if role != "weight"}
        # Code that runs on constants first and on data later (RAFT's initial flow) does not compute weights.
        return [
            on_data.get(place, role) if role == "weight" else role for place, role in zip(places, roles, strict=True)
        ]

    def _role(self, record: CallRecord, roles: list[str]) -> str:
        """Gates multiply other data; what only leads to gates is a gate; squashed scores at the end are the head.

        Whether a squashing function is a gate depends on what consumes it. Where the consumer or the input is unknown,
        so is the role; so is that of a call whose result is not used.
        """
        op, squashes = self.trace.ops[record.op], record.activation in SQUASHING
        if not op.data:
            return "weight"
        if self._is_returned(record):
            return "head" if squashes or record.activation == RECTIFIED else "nonlinearity"
        if record.activation in SCORES and self._only_scores(record):
            return "head"
        readers = self.trace.forth(record.op, looked_through, self.readers)
        direct = [reader.kind for reader in readers if reader.kind != "choice"]
        if direct and set(direct) <= {"mul", "matmul"}:
            return "gate"
        if squashes and (not op.traced or not direct or "unknown" in direct):
            return "unknown"
        later = list(self.trace.forth(record.op, _leads_on, self.readers))
        led_to = {roles[self.calls[reader.index]] if reader.index in self.calls else "else" for reader in later}
        if led_to and led_to <= {"gate", "unknown"}:
            return "unknown" if "unknown" in led_to else "gate"
        return "nonlinearity"

    def _only_scores(self, record: CallRecord) -> bool:
        """True if the result is only returned, or only ranks and filters what is returned."""
        todo, seen, used = [record.op], {record.op}, False
        while todo:
            for reader in self.readers[todo.pop()]:
                op = self.trace.ops[reader]
                used |= op.kind == "choice"
                if reader in seen or op.kind == "choice":
                    continue
                if op.kind not in _SCORED and op.name.rstrip("_") not in _SCORE_ARITHMETIC and not self._product(op):
                    return False
                seen.add(reader)
                todo.append(reader)
        return used or bool(seen & set(self.trace.outputs))

    def _product(self, op: Op) -> bool:
        """True for a product of scores, which is a score: objectness times class, class times centreness."""
        factors = [self.trace.ops[source] for source in op.inputs if self.trace.ops[source].data]
        return op.kind == "mul" and all(
            self._is_score(made)
            for factor in factors
            for made in ([factor] if factor.index in self.calls else self.trace.back(factor.index, looked_through))
        )

    def _is_score(self, op: Op) -> bool:
        return op.index in self.calls and self.trace.calls[self.calls[op.index]].activation in SCORES


def looked_through(op: Op) -> bool:
    """True for operations that do not count as neighbours, such as shape operations."""
    return op.kind in (*TRANSPARENT, "scale")


def _leads_on(op: Op) -> bool:
    return op.kind in (*TRANSPARENT, "scale", "conv", "linear", "norm", "pool")


def _gated(op: Op) -> bool:
    return op.kind == "mul"
