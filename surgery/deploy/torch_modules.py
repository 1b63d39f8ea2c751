"""Torch modules: our functions as the modules of torch that compute the same, for tools that go by class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from surgery.activations import Affine, FReLU, HeLU, PReLU, RectifiedScores, Swish
from surgery.edit.write import keep_history, replace_children
from surgery.isolation.meta_copy import copied
from surgery.model import M, check_plain


def plain(model: M) -> M:
    """Return a copy in which our functions are torch's own modules, where torch has one that computes the same.

    For tools that go by class, such as quantisers (Brevitas, AIMET, `torch.ao.quantization`) and counters of
    operations. prelu becomes `nn.PReLU`, as does frelu whose positive slopes are 1; swish with beta 1 becomes
    `nn.SiLU`; helu and rectified scores `nn.ReLU`, which they are in eval mode; an affine map that is the identity
    `nn.Identity`. Slopes stay parameters. The others stay as they are, among them prelu per channel of tokens: torch's
    has its slopes along axis 1.

    The copy has no history: it can be neither undone nor saved by `surgery.save`. Fades go on: `settle` first.

    Raises:
        CannotEdit, CannotLook: the model is wrapped, compiled or scripted, or cannot be copied.
    """
    check_plain(model)
    made = copied(model)
    found = {path: new for path, child in made.named_modules() if (new := _as_torch(child)) is not None}
    replace_children(made, found)
    keep_history(made, None)
    return made


def _as_torch(module: nn.Module) -> nn.Module | None:
    convert = _CONVERTED.get(type(module))
    return convert(module) if convert is not None else None


def _of_prelu(module: PReLU) -> nn.Module | None:
    return _prelu(module.weight, module.axis)


def _of_frelu(module: FReLU) -> nn.Module | None:
    if module.alternate is not None or not _all(module.positive, 1):
        return None
    return nn.ReLU() if _all(module.negative, 0) else _prelu(module.negative, module.axis)


def _of_swish(module: Swish) -> nn.Module | None:
    return nn.SiLU() if _all(module.beta, 1) else None


def _of_scores(module: RectifiedScores) -> nn.Module | None:
    return nn.ReLU() if module.reading == "scores" else None


def _of_affine(module: Affine) -> nn.Module | None:
    return nn.Identity() if _all(module.weight, 1) and _all(module.bias, 0) else None


def _prelu(slopes: nn.Parameter, axis: int) -> nn.Module | None:
    if axis != 1 and len(slopes) > 1:
        return None
    made = nn.PReLU(len(slopes), device="meta")
    made.weight = slopes
    return made


def _all(values: Tensor, wanted: float) -> bool:
    return bool(torch.all(values == wanted))


_CONVERTED: dict[type[nn.Module], Callable[..., nn.Module | None]] = {
    PReLU: _of_prelu, FReLU: _of_frelu, Swish: _of_swish, HeLU: lambda _: nn.ReLU(), RectifiedScores: _of_scores,
    Affine: _of_affine,
}  # fmt: skip
