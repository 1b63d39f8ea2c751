"""Weight times gradient, summed over all steps."""

from collections.abc import Callable

import pytest
import torch
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn

from pruning.rounds.movement import accumulating
from surgery.errors import BadValue
from tests.asserts import assert_raises


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: param for name, param in model.named_parameters() if param.dim() > 1}


def loss(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    return model(x.to(next(model.parameters()))).square().sum()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> dict[str, Tensor]:
    """Train, and return the expected movement."""
    expected = {name: torch.zeros_like(value) for name, value in weights(model).items()}
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, step).backward()
        for name, tensor in weights(model).items():
            expected[name] -= (tensor * tensor.grad).detach()
        optimizer.step()
    return expected


def close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> bool:
    assert list(found) == list(expected)
    return all(
        torch.allclose(found[name].double(), tensor.double(), rtol=tolerance) for name, tensor in expected.items()
    )


OPTIMISERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.1),
    "sgd foreach": lambda model: torch.optim.SGD(model.parameters(), 0.01, foreach=True),
    "adam": lambda model: torch.optim.Adam(model.parameters(), 0.01),
    "adamw fused": lambda model: torch.optim.AdamW(model.parameters(), 0.01, fused=True),
    "timm lookahead": lambda model: Lookahead(torch.optim.SGD(model.parameters(), 0.01), k=2),
}


def test_by_hand() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    into: dict[str, Tensor] = {}
    with accumulating({"w": layer.weight}, [optimizer], into):
        for gradient in ([1.0, 1.0], [-2.0, 4.0]):
            layer.weight.grad = torch.tensor([gradient])
            optimizer.step()
    # 2 x 1 and -1 x 1; the step leads to 1.5 and -1.5: 1.5 x -2 and -1.5 x 4.
    assert torch.equal(into["w"], torch.tensor([[-2.0 + 3.0, 1.0 + 6.0]]))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_what_is_gathered_and_what_is_trained(name: str) -> None:
    model, alone = small(), small()
    into: dict[str, Tensor] = {}
    optimizer = OPTIMISERS[name](model)
    with accumulating(weights(model), [optimizer], into):
        expected = train(model, optimizer)
    assert close(into, expected)
    train(alone, OPTIMISERS[name](alone))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


def test_nothing_is_gathered_outside_and_it_goes_on_inside() -> None:
    model = small()
    optimizer = OPTIMISERS["sgd"](model)
    into: dict[str, Tensor] = {}
    with accumulating(weights(model), [optimizer], into):
        first = train(model, optimizer)
    kept = into["0.weight"]
    train(model, optimizer)
    assert close(into, first)
    with accumulating(weights(model), [optimizer], into):
        second = train(model, optimizer)
    assert into["0.weight"] is kept
    assert close(into, {name: value + second[name] for name, value in first.items()}, 1e-5)


def test_the_hook_goes_with_an_exception() -> None:
    model = small()
    optimizer = OPTIMISERS["sgd"](model)
    into: dict[str, Tensor] = {}

    def broken() -> None:
        with accumulating(weights(model), [optimizer], into):
            raise KeyError("stop")

    assert_raises(KeyError, broken)
    train(model, optimizer)
    assert not any(bool(tensor.any()) for tensor in into.values())


def test_a_weight_without_gradient_adds_nothing() -> None:
    model = small()
    model[0].weight.requires_grad_(False)
    optimizer = OPTIMISERS["adam"](model)
    into: dict[str, Tensor] = {}
    with accumulating(weights(model), [optimizer], into):
        loss(model, 0).backward()
        optimizer.step()
    assert not into["0.weight"].any() and into["2.weight"].any()


def test_two_optimisers_each_add_their_own() -> None:
    model = small()
    first, second = (torch.optim.SGD(model[place].parameters(), 0.0) for place in (0, 2))
    into: dict[str, Tensor] = {}
    loss(model, 0).backward()
    with accumulating(weights(model), [first, second, first], into):
        first.step()
        assert into["0.weight"].any() and not into["2.weight"].any()
        second.step()
        second.step()
    own = {name: -(tensor * tensor.grad).detach() for name, tensor in weights(model).items()}
    assert close(into, {"0.weight": own["0.weight"], "2.weight": 2 * own["2.weight"]})


def test_an_optimiser_that_is_given_a_layer_later_adds_it() -> None:
    model = small()
    optimizer, other = torch.optim.SGD(model[0].parameters(), 0.0), torch.optim.SGD(model[2].parameters(), 0.0)
    into: dict[str, Tensor] = {}
    loss(model, 0).backward()
    with accumulating(weights(model), [optimizer, other], into):
        optimizer.add_param_group({"params": list(model[2].parameters())})
        optimizer.step()
    assert close(into, {name: -(tensor * tensor.grad).detach() for name, tensor in weights(model).items()})


def test_clipped_gradients_count_as_clipped() -> None:
    model = small()
    optimizer = OPTIMISERS["sgd"](model)
    into: dict[str, Tensor] = {}
    loss(model, 0).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    expected = {name: -(tensor * tensor.grad).detach() for name, tensor in weights(model).items()}
    with accumulating(weights(model), [optimizer], into):
        optimizer.step()
    assert close(into, expected)


@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_the_scale_of_mixed_precision_is_taken_out(fused: bool, unscaled: bool) -> None:
    model = small()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.0, fused=fused)
    loss(model, 0).backward()
    expected = {name: -(tensor * tensor.grad).detach() for name, tensor in weights(model).items()}
    optimizer.zero_grad()
    into: dict[str, Tensor] = {}
    with accumulating(weights(model), [optimizer], into):
        scaler.scale(loss(model, 0)).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
    assert close(into, expected)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("broken", [float("inf"), float("nan")])
def test_a_step_that_the_scaler_leaves_out_adds_nothing(fused: bool, broken: float) -> None:
    model = small()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
    into: dict[str, Tensor] = {}
    with accumulating(weights(model), [optimizer], into):
        scaler.scale(loss(model, 0)).backward()
        model[0].weight.grad[0, 0] = broken  # type: ignore[index]
        scaler.step(optimizer)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in into.values())


def test_half_precision_is_gathered_in_single() -> None:
    model = small().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    into: dict[str, Tensor] = {}
    loss(model, 0).backward()
    with accumulating(weights(model), [optimizer], into):
        optimizer.step()
    expected = {name: -(tensor.float() * tensor.grad.float()).detach() for name, tensor in weights(model).items()}
    assert {tensor.dtype for tensor in into.values()} == {torch.float32}
    assert all(torch.equal(into[name], value) for name, value in expected.items())


def test_refusals_change_nothing() -> None:
    model, other = small(), small()
    optimizer = OPTIMISERS["sgd"](model)

    def enter(model: nn.Module, into: dict[str, Tensor]) -> None:
        with accumulating(weights(model), [optimizer], into):
            pass

    into = {"2.weight": torch.zeros(3, 3)}
    assert_raises(BadValue, lambda: enter(model, into), "2.weight", "(2, 4)", "(3, 3)")
    assert list(into) == ["2.weight"]
    nothing: dict[str, Tensor] = {}
    assert_raises(BadValue, lambda: enter(other, nothing), "has none of the weights")
    assert nothing == {} and not optimizer._optimizer_step_pre_hooks
    optimizer = torch.optim.SGD(model[0].parameters(), 0.0)
    assert_raises(BadValue, lambda: enter(model, nothing), "No optimiser has 2.weight", "keep=")
    assert nothing == {} and not optimizer._optimizer_step_pre_hooks

    def alone() -> None:
        with accumulating(weights(model), [], nothing):
            pass

    assert_raises(BadValue, alone, "has none of the weights")
    assert nothing == {}
