"""Forward: the record of one forward in eval mode as a graph of tensors, and which module computed which from which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from surgery.activations.dispatch import only
from surgery.dataflow.flow import tensors_in
from surgery.dataflow.operations import LEAVING, activation_of_module, name_of, operation_of, written_by
from surgery.errors import CannotLook
from surgery.isolation.held_tensors import reachable_tensors
from surgery.isolation.leftovers import no_leftovers
from surgery.isolation.meta_copy import scratch_copy
from surgery.look.example import Example
from surgery.look.listen import norm_on_meta
from surgery.merging.maps.known_modules import is_known, operation_of_module
from surgery.merging.maps.operations import Arguments, Linear, in_the_way, linear_operation, why_not_linear
from surgery.model import check_plain, home_of, in_mode
from surgery.rng import seeded


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """The values of a tensor: which nodes they were computed from, by which call, in the code of which module.

    `linear` says how, if they are an affine function of some of them; `why` not, if they are not. `kind` is that of the
    operation, such as "conv" or "activation", see `operation_of`; "unknown" if it was not seen.
    """

    index: int
    name: str
    reads: tuple[int, ...]
    shape: tuple[int, ...]
    module: str
    linear: Linear | None
    why: str = ""
    kind: str = "unknown"

    @property
    def sources(self) -> tuple[int, ...]:
        """The nodes it is an affine function of; empty for others."""
        return tuple(self.reads[place] for place in range(len(self.linear.sources))) if self.linear else ()


@dataclass(slots=True, eq=False)
class ModuleCall:
    """One call of a module: the node of its only tensor argument, and of the only tensor it returned; None otherwise.

    The nodes from `start` to `end` were computed during the call.
    """

    path: str
    taken: int | None
    start: int
    returned: int | None = None
    end: int = 0


@dataclass(slots=True)
class Forward:
    """One forward. `readers` lists for every node those computed from it; `outputs` are the results of the model.

    `weights` counts the calls that read each parameter or buffer.
    """

    nodes: list[Node] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    outputs: frozenset[int] = frozenset()
    readers: list[list[int]] = field(default_factory=list)
    weights: Counter[str] = field(default_factory=Counter)

    def times(self, path: str) -> int:
        """How often the module at a path is called."""
        return sum(call.path == path for call in self.calls)


def forward_of(model: nn.Module, sample: Example) -> Forward:
    """Run a copy of the model once in eval mode, on the meta device where that works, and record what it computes.

    Raises:
        CannotLook: the model is wrapped, cannot be copied, or does not run on this example.
    """
    check_plain(model)
    home = home_of(model)
    try:
        with no_leftovers(model, strict=True) as tracking:
            return _recorded(model, sample, torch.device("meta"), tracking)
    except Exception:  # control flow depends on values, or an operation has no meta kernel
        if home.type == "meta":
            raise
    try:
        with seeded(), no_leftovers(model) as tracking:
            return _recorded(model, sample, home, tracking)
    except CannotLook:
        raise
    except Exception as error:  # whatever a forward may raise
        raise CannotLook(
            f"{type(model).__name__} does not run on this example in eval mode.",
            asked=f"{type(error).__name__}: {error}".splitlines()[0], try_="pass example=",
        ) from error  # fmt: skip


def _recorded(model: nn.Module, sample: Example, device: torch.device, tracking: Any) -> Forward:
    copied = in_mode(scratch_copy(model, meta=device.type == "meta"), "eval")
    given = sample.on(device)
    recorder = _Recorder(copied)
    recorder.enter(given)
    with torch.no_grad(), recorder.hooks(), only("closed", "affine"), recorder, tracking, device:
        result = copied(*given.args, **given.kwargs)
    return recorder.finished(result)


class _Recorder(TorchFunctionMode):
    """The torch-function mode, and what the module hooks call, that write one forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward = Forward()
        self.names: dict[int, str] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.names.setdefault(id(tensor), name)
        self.of: dict[int, int] = {}  # id of a tensor -> its node
        self.alive: list[Any] = [*model.parameters(), *model.buffers()]  # ids stay unique
        self.memory: dict[int, list[Tensor]] = {}  # storage -> the tensors that are views of it
        self.running: list[ModuleCall] = []
        self.known: list[nn.Module] = []  # running modules that are known by their class

    def enter(self, given: Example) -> None:
        for value in reachable_tensors((given.args, given.kwargs)):
            self._put(value, self._node("input", (), value, None, "it is the input"))

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Inside, the calls of all modules are recorded."""
        handles = [handle for path, module in self.model.named_modules() for handle in self._hooks_of(path, module)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks_of(self, path: str, module: nn.Module) -> Iterator[RemovableHandle]:
        def arrive(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.arrive(path, module, args, kwargs)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            self.leave(path, module, args, result)

        yield module.register_forward_pre_hook(arrive, with_kwargs=True)
        yield module.register_forward_hook(leave)

    def finished(self, result: Any) -> Forward:
        made = self.forward
        made.outputs = frozenset(self.of[id(value)] for value in reachable_tensors(result) if id(value) in self.of)
        made.readers = [[] for _ in made.nodes]
        for node in made.nodes:
            for source in dict.fromkeys(node.reads):
                made.readers[source].append(node.index)
        return made

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.known:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            sources = [value for value in tensors_in((args, kwargs)) if id(value) in self.of]
            reads = [self.of[id(value)] for value in sources]
            read = {self.names[id(value)] for value in tensors_in((args, kwargs)) if id(value) in self.names}
            self.forward.weights.update(read if name_of(func) != "__get__" else ())
        result = norm_on_meta(func, args, kwargs)
        if result is None:
            result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            self._note(name_of(func), operation_of(func), args, kwargs, reads, result)
        return result

    def _note(self, name: str, kind: str, args: Any, kwargs: Any, reads: list[int], result: Any) -> None:
        made = [value for value in tensors_in(result) if id(value) not in self.names]
        written = written_by(name, args, kwargs)
        if not reads or not (made or written):
            if reads and name in LEAVING:
                self._node(name, tuple(reads), None, None, f"{name} reads its values")
            return
        if len(made) == 1 and (not written or written[0] is made[0]) and made[0] is result:
            shape = tuple(result.shape)
            call = Arguments(args, kwargs, self.names, shape, lambda value: id(value) in self.of)
            operation = linear_operation(name, call)
            why = "" if operation else why_not_linear(name, kind, call)
            if operation is not None:  # its sources come first
                first = [self.of[id(args[place] if place < len(args) else kwargs["input"])]
                         for place in operation.sources]  # fmt: skip
                reads = [*first, *reads]
            node = self._node(name, tuple(reads), result, operation, why, kind)
            self._write(result, node) if written else self._put(result, node)
            return
        for value in made:
            self._put(value, self._node(name, tuple(reads), value, None, in_the_way(name, kind), kind))
        for value in written:
            self._write(value, self._node(name, tuple(reads), value, None, f"{name} overwrites a part of it"))

    def _node(
        self, name: str, reads: tuple[int, ...], value: Tensor | None, linear: Linear | None, why: str,
        kind: str = "unknown",
    ) -> int:  # fmt: skip
        path = self.running[-1].path if self.running else ""
        shape = tuple(value.shape) if value is not None else ()
        self.forward.nodes.append(Node(len(self.forward.nodes), name, reads, shape, path, linear, why, kind))
        return len(self.forward.nodes) - 1

    def _put(self, value: Tensor, node: int) -> None:
        self.of[id(value)] = node
        self.alive.append(value)
        if value.layout is torch.strided:
            self.memory.setdefault(value.untyped_storage()._cdata, []).append(value)

    def _write(self, value: Tensor, node: int) -> None:
        """The values of a tensor, and of all views of its memory, are others from now on."""
        shared = self.memory.get(value.untyped_storage()._cdata, []) if value.layout is torch.strided else []
        old = self.of.get(id(value))
        for other in list(shared):
            if other is not value and (self.of[id(other)] != old or other.shape != value.shape):
                self.of[id(other)] = self._node("write", (node, self.of[id(other)]), other, None, "it is overwritten")
            elif other is not value:
                self.of[id(other)] = node
        self._put(value, node)

    def arrive(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.known:
            self.known.append(module)
            return
        taken = None
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            taken = self.of.get(id(args[0]))
        self.running.append(ModuleCall(path, taken, len(self.forward.nodes)))
        if taken is not None and is_known(module):
            self.known.append(module)

    def leave(self, path: str, module: nn.Module, args: Any, result: Any) -> None:
        if self.known:
            self.known.pop()
            if self.known:
                return
            with torch._C.DisableTorchFunction():
                self._note_module(path, module, args[0], result)
        call = self.running.pop()
        if isinstance(result, Tensor) and id(result) not in self.of and call.taken is not None:
            # Functions with a gradient of their own are not seen.
            name = type(module).__name__
            self._put(result, self._node(name, (call.taken,), result, None, f"the code of {name} cannot be followed"))
        call.returned = self.of.get(id(result)) if isinstance(result, Tensor) else None
        call.end = len(self.forward.nodes)
        self.forward.calls.append(call)

    def _note_module(self, path: str, module: nn.Module, given: Tensor, result: Any) -> None:
        """Note the call of a module that is known by its class as a single operation."""
        taken = self.running[-1].taken
        assert taken is not None
        name = activation_of_module(module) or type(module).__name__
        operation = operation_of_module(module, path, given)
        self.forward.weights.update(operation.weights if operation else ())
        why, kind = ("", "scale") if operation else (f"{name} is not linear", "activation")
        node = self._node(name, (taken,), result, operation, why, kind)
        self._write(result, node) if result is given else self._put(result, node)
