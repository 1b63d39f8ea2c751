"""Examples as plain data: shapes of large tensors, and the exact values of small ones."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.errors import BadFile
from surgery.look.example import KEPT_VALUES, MOST_NUMBERS, Example
from tests.asserts import assert_raises

ODD = [0.1, -0.0, float("inf"), float("-inf"), 1e-45, 3.4e38]


def again(*args: Any, **kwargs: Any) -> Example:
    return Example.from_data(json.loads(json.dumps(Example(args, kwargs).to_data())))


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor(ODD), torch.tensor(ODD).double(), torch.tensor(ODD[:5]).bfloat16(), torch.tensor(ODD[:5]).half(),
     torch.tensor([[2**62, -1]]), torch.tensor([True, False]), torch.tensor(7, dtype=torch.uint8), torch.empty(0, 3)],
)  # fmt: skip
def test_small_tensors_keep_their_numbers(tensor: Tensor) -> None:
    (read,) = again(tensor).args
    assert (read.shape, read.dtype) == (tensor.shape, tensor.dtype)
    assert torch.equal(read, tensor) and torch.equal(read.signbit(), tensor.signbit())


def test_a_number_that_is_none_stays_one() -> None:
    assert again(torch.tensor([float("nan"), 1.0])).args[0].isnan().tolist() == [True, False]


def test_large_tensors_keep_their_shapes() -> None:
    kept, left = again(torch.ones(KEPT_VALUES), x=torch.ones(KEPT_VALUES + 1)).args[0], again(x=torch.ones(2, 1000))
    assert torch.equal(kept, torch.ones(KEPT_VALUES))
    assert left.kwargs["x"].is_meta and left.kwargs["x"].shape == (2, 1000)


def test_the_numbers_take_one_line() -> None:
    assert Example((torch.tensor([[0.5, 2.0]]),), {}).to_data() == {
        "args": [{"shape": [1, 2], "dtype": "float32", "values": "0.5 2.0"}]
    }
    assert str(Example((torch.ones(2),), {"n": torch.ones(1)})) == (
        "[{'shape': [2], 'dtype': 'float32'}] {'n': {'shape': [1], 'dtype': 'float32'}}"
    )


def described(*shapes: list[Any], **more: Any) -> dict[str, Any]:
    return {"args": [[{"tuple": [{"shape": shape, "dtype": "float32", **more}]}] for shape in shapes]}


def test_an_example_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Example.from_data(described([MOST_NUMBERS])).args[0][0][0].numel() == MOST_NUMBERS
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("it was made"))
    for shapes in ([[MOST_NUMBERS + 1]], [[10**6, 10**6]], [[MOST_NUMBERS], [1]]):
        assert_raises(
            BadFile, lambda shapes=shapes: Example.from_data(described(*shapes)), "too large", f"at most {MOST_NUMBERS}"
        )


@pytest.mark.parametrize(
    "plain",
    [{}, {"args": 3}, described(["x"]), described([-1]), described([2], values="1"), described([1], values="x"),
     described([1], dtype="load"), {"args": [{"nothing": 1}]}],
)  # fmt: skip
def test_what_describes_no_example_is_refused(plain: dict[str, Any]) -> None:
    assert_raises(BadFile, lambda: Example.from_data(plain), "describes an example that cannot be built")


def test_nothing_deep_is_followed_for_ever() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert_raises(BadFile, lambda: Example.from_data({"args": [deep]}), "describes an example that cannot be built")


def test_a_long_flat_example_is_read_in_the_time_its_length_takes() -> None:
    begin = time.perf_counter()
    assert Example.from_data({"args": [[0] * 200_000]}).args == ([0] * 200_000,)
    assert time.perf_counter() - begin < 3
