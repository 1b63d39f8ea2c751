"""Facts: what the operations around an activation call say about it. Its role, its neighbours, its weights."""

from __future__ import annotations

from typing import Any

from surgery.blocks import block_facts
from surgery.kinds import RECTIFIED, SQUASHING
from surgery.trace import SCALING, TRANSPARENT, Heard, Op, Trace


class Facts:
    """What the operations around each activation call of a trace say about it."""

    def __init__(self, trace: Trace, kind_of: dict[str, str]) -> None:
        self.trace = trace
        self.readers = trace.consumers()
        self.calls = {heard.op: k for k, heard in enumerate(trace.heard)}
        self.roles = self._roles()
        self.blocks = block_facts(trace, self.roles, kind_of)

    def of(self, index: int) -> dict[str, Any]:
        """The facts of one call, as fields of `Site`."""
        heard = self.trace.heard[index]
        readers = {op.kind for op in self.trace.forth(heard.op, looked_through, self.readers)}
        reaches_end = {heard.op} | set(self._after(heard.op, looked_through))
        if reaches_end & set(self.trace.outputs):
            readers.add("output")
        sources = [op.kind for op in self.trace.back(heard.op, looked_through) if op.data]
        return {
            "role": self.roles[index],
            "fed_by": tuple(sorted(set(sources))),
            "feeds": tuple(sorted(readers)),
            "weights": self._weights(heard),
            "norm": self._norm(heard),
            **self.blocks[index],
        }

    def _weights(self, heard: Heard) -> tuple[str, ...]:
        """Weights of the convolutions and linear layers whose sums arrive here through norms, adds and scalings."""
        found: dict[str, None] = {}
        for op in self.trace.back(heard.op, lambda op: op.kind in (*SCALING, "add", "concat") or _gated(op)):
            if op.kind in ("conv", "linear"):
                found.update(dict.fromkeys(self._weight_of(op)))
        return tuple(found)

    def _norm(self, heard: Heard) -> str | None:
        """The path of the norm right in front of a call, read off the names of what it holds."""
        fed = [self.trace.ops[source] for source in self.trace.ops[heard.op].inputs]
        names = fed[0].weights if len(fed) == 1 and fed[0].kind == "norm" else ()
        return names[0].rpartition(".")[0] if names else None

    def _weight_of(self, op: Op) -> list[str]:
        """The weight an operation reads: its own parameter, or those a computed weight was made of."""
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
        todo, found = [start], set[int]()
        while todo:
            for reader in self.readers[todo.pop()]:
                if reader not in found and through(self.trace.ops[reader]):
                    found.add(reader)
                    todo.append(reader)
        return found

    def _roles(self) -> list[str]:
        """Gates multiply other data; what only leads to gates is one; a squashing function at the end is the head."""
        roles = ["nonlinearity"] * len(self.trace.heard)
        for index in reversed(range(len(roles))):
            heard = self.trace.heard[index]
            reaches_end = set(self.trace.outputs) & {heard.op, *self._after(heard.op, looked_through)}
            if reaches_end:
                roles[index] = "head" if heard.activation in (*SQUASHING, RECTIFIED) else "nonlinearity"
                continue
            direct = list(self.trace.forth(heard.op, looked_through, self.readers))
            if direct and all(op.kind in ("mul", "matmul") for op in direct):
                roles[index] = "gate"
                continue
            later = list(self.trace.forth(heard.op, _leads_on, self.readers))
            if later and all(roles[self.calls[op.index]] == "gate" for op in later if op.index in self.calls):
                lead = all(op.index in self.calls for op in later)
                roles[index] = "gate" if lead else "nonlinearity"
        return roles


def looked_through(op: Op) -> bool:
    """True for what a reader of the network looks through."""
    return op.kind in (*TRANSPARENT, "scale")


def _leads_on(op: Op) -> bool:
    return op.kind in (*TRANSPARENT, "scale", "conv", "linear", "norm", "pool")


def _gated(op: Op) -> bool:
    return op.kind == "mul"
