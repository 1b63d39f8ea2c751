"""Masks: their algebra, table and file, reading them from a model and applying them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import timm
import torch
import torch.ao.pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning.masks.masks import Masks
from surgery.errors import BadFile, BadValue, CannotLook, NothingPicked, WrongModel
from tests.asserts import assert_raises, assert_untouched
from tests.pruning.tiny import assert_held, random_masks, tiny_net, weights


def bits(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


A = Masks({"a": bits(1, 1, 0, 0), "b": bits(1, 1, 1)})
B = Masks({"a": bits(1, 0, 1, 0), "b": bits(0, 1, 1)})

MASKS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__"),
    arrays(bool, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)).map(torch.from_numpy),
    max_size=4,
).map(Masks)


# Algebra


def test_and() -> None:
    both = A & B
    assert isinstance(both, Masks)
    assert both["a"].tolist() == [True, False, False, False]
    assert both["b"].tolist() == [False, True, True]
    assert A["a"].tolist() == [True, True, False, False], "changed in place"


def test_and_with_names_that_one_lacks() -> None:
    first, other = Masks({"a": bits(1, 0), "b": bits(1, 0)}), {"c": bits(0, 1), "b": bits(0, 1)}
    both = first & other
    assert {name: mask.tolist() for name, mask in both.items()} == {
        "a": [True, False],
        "b": [False, False],
        "c": [False, True],
    }


def test_and_refuses_what_does_not_fit() -> None:
    assert_raises(BadValue, lambda: A & {"a": bits(1, 1)}, "a", "(4,)", "(2,)")
    assert_raises(BadValue, lambda: A & {"a": torch.ones(4)}, "a", "boolean", "torch.float32")


@settings(max_examples=50)
@given(first=MASKS, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_laws_of_and(first: Masks, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    other = Masks({name: torch.rand(mask.shape, generator=generator) < share for name, mask in first.items()})
    both = first & other
    assert both == other & first
    assert both & first == both & other == both
    assert first & first == first
    assert first & Masks({}) == first == Masks({}) & first
    assert both.alive <= min(first.alive, other.alive)
    assert all(not (both[name] & ~first[name]).any() for name in first)


def test_equality() -> None:
    first, less = Masks(dict(A)), Masks({"a": A["a"]})
    assert first == Masks({name: mask.clone() for name, mask in A.items()})
    assert first == dict(A), "any mapping will do"
    assert first != B
    assert first != less
    assert less != first
    assert first != Masks({"b": A["b"], "a": A["a"]}), "the order of names is that of the model"
    assert first != Masks({"a": A["a"].reshape(2, 2), "b": A["b"]})
    assert first != {"a": [True], "b": [True]}
    assert first != "masks"
    assert_raises(TypeError, lambda: hash(first), "unhashable")


def test_mapping() -> None:
    assert list(A) == ["a", "b"]
    assert len(A) == 2
    assert "a" in A and "c" not in A
    assert_raises(KeyError, lambda: A["c"], "c")


def test_counts() -> None:
    assert (A.size, A.alive) == (7, 5)
    assert A.share == 5 / 7
    nothing = Masks({})
    assert (nothing.size, nothing.alive, nothing.share) == (0, 0, 0.0)
    empty = Masks({"a": torch.ones(0, 3, dtype=torch.bool)})
    assert (empty.size, empty.alive, empty.share) == (0, 0, 0.0)


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(3, dtype=torch.uint8), [True], None, numpy.ones(3, bool)],
                         ids=["float", "uint8", "list", "none", "numpy"])  # fmt: skip
def test_only_boolean_tensors(wrong: Any) -> None:
    there = str(wrong.dtype) if isinstance(wrong, Tensor) else type(wrong).__name__
    assert_raises(BadValue, lambda: Masks({"fine": bits(1), "layer.weight": wrong}), "layer.weight", there)


def test_the_table() -> None:
    masks = Masks({"conv.weight": torch.ones(2, 3, 1, 1, dtype=torch.bool), "fc.weight": bits(1, 0, 0, 0)})
    lines = str(masks).splitlines()
    assert lines[0].split() == ["weight", "shape", "unpruned", "density"]
    assert [line.split() for line in lines if "weight " in line][1:] == [
        ["conv.weight", "2x3x1x1", "6", "100.0%"],
        ["fc.weight", "4", "1", "25.0%"],
    ]
    assert lines[-1] == "7 of 10 weights unpruned (density 70.00%)"
    assert str(Masks({})) == "0 of 0 weights unpruned (density 0.00%)"


# Models


def test_full() -> None:
    model = tiny_net()
    with assert_untouched(model):
        masks = Masks.full(model)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {"0.weight": (4, 2, 3, 3), "4.weight": (3, 64)}
    assert masks.share == 1
    assert list(Masks.full(model, keep=lambda name, module: name == "4.weight")) == ["4.weight"]


def test_of_what_is_not_zero() -> None:
    model = tiny_net()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[4].weight[0, 0] = -0.0
        model[4].weight[0, 1] = float("nan")
    with assert_untouched(model):
        masks = Masks.of(model)
    assert not masks["0.weight"][1].any()
    assert masks["0.weight"].sum() == 54
    assert masks["4.weight"].sum() == 191
    assert list(Masks.of(model, keep=lambda name, module: name == "4.weight")) == ["4.weight"]


def test_lay_over() -> None:
    model = tiny_net()
    masks = random_masks(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks.lay_over(model)
    assert_held(model, masks)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] * masks[name] if name in masks else before[name]), name
    assert all(param.requires_grad and param.is_leaf for param in model.parameters())
    assert Masks.of(model) == masks


def test_lay_over_a_part() -> None:
    model = tiny_net()
    Masks({"4.weight": torch.zeros(3, 64, dtype=torch.bool)}).lay_over(model)
    assert not model[4].weight.any() and model[0].weight.all()


def test_lay_over_what_is_not_finite() -> None:
    model = tiny_net()
    masks = random_masks(model)
    with torch.no_grad():
        model[4].weight.fill_(float("inf"))
    masks.lay_over(model)
    assert_held(model, masks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_precisions(dtype: torch.dtype) -> None:
    model = tiny_net().to(dtype)
    masks = random_masks(model)
    assert {mask.dtype for mask in masks.values()} == {torch.bool}
    masks.lay_over(model)
    assert_held(model, masks)
    assert Masks.of(model) == masks
    assert {param.dtype for param in model.parameters()} == {dtype}


def test_pairs_are_in_the_order_of_the_masks() -> None:
    model = tiny_net()
    masks = Masks(dict(reversed(list(Masks.full(model).items()))))
    assert [tuple(mask.shape) for _, mask in masks.pairs(model)] == [(3, 64), (4, 2, 3, 3)]
    assert [id(param) for param, _ in masks.pairs(model)] == [id(model[4].weight), id(model[0].weight)]


def test_a_shared_weight_has_one_mask() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    masks = random_masks(model)
    assert list(masks) == ["0.weight"]
    masks.lay_over(model)
    assert torch.equal(model[1].weight != 0, masks["0.weight"])
    assert Masks.of(model) == masks


def test_masks_of_another_model() -> None:
    masks = random_masks(tiny_net())
    wider, renamed, smaller = tiny_net(), nn.Sequential(), nn.Sequential(nn.Conv2d(2, 4, 3))
    wider[4] = nn.Linear(65, 3)
    for name, module in tiny_net().named_children():
        renamed.add_module(f"layer{name}", module)
    for model, words in [
        (wider, ("4.weight", "(3, 64)", "(3, 65)")),
        (renamed, ("0.weight", "layer0.weight")),
        (smaller, ("4.weight", "(3, 64)")),
        (nn.ReLU(), ("0.weight",)),
    ]:
        with assert_untouched(model):
            for call in (masks.lay_over, masks.pairs, partial(masks.held, optimizer=sgd(tiny_net()))):
                assert_raises(WrongModel, lambda call=call, model=model: call(model), "another model", *words)


def test_wrapped_models(tmp_path: Path) -> None:
    model = tiny_net()
    masks = random_masks(model)
    meeting = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        compiled = torch.compile(model, backend="eager")
        for wrapped, cure in ((parallel, "model.module"), (compiled, "_orig_mod")):
            with assert_untouched(model):
                calls: list[Callable[[nn.Module], Any]] = [
                        Masks.full, Masks.of, masks.lay_over, partial(masks.held, optimizer=sgd(model)),
                    ]  # fmt: skip
                for call in calls:
                    assert_raises(CannotLook, lambda call=call, wrapped=wrapped: call(wrapped), cure)
        masks.lay_over(parallel.module)
        assert_held(model, masks)
    finally:
        torch.distributed.destroy_process_group()


def test_models_without_weights() -> None:
    assert_raises(NothingPicked, lambda: Masks.full(nn.ReLU()), "ReLU")
    assert_raises(NothingPicked, lambda: Masks.of(nn.ReLU()), "ReLU")


def test_models_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    full = Masks.full(model)
    assert full == Masks.full(tiny_net())
    assert full.share == 1 and str(full)
    full.lay_over(model)
    assert_raises(BadValue, lambda: Masks.of(model), "0.weight", "meta")
    real = model.to_empty(device="cpu")
    with torch.no_grad():
        for param in real.parameters():
            param.fill_(2)
    masks = random_masks(real)
    masks.lay_over(real)
    assert_held(real, masks)


def test_beside() -> None:
    model = tiny_net()
    masks = random_masks(model)
    moved = masks.beside({name: value.to("meta") for name, value in weights(model, masks).items()})
    assert all(mask.is_meta for mask in moved.values())


# Files


@settings(max_examples=50)
@given(masks=MASKS)
def test_saved_and_loaded(masks: Masks, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "some.masks"
    masks.save(file)
    found = Masks.load(file)
    assert found == masks
    assert {name: mask.shape for name, mask in found.items()} == {name: mask.shape for name, mask in masks.items()}


def test_a_file_has_a_bit_per_weight(tmp_path: Path) -> None:
    masks = Masks({"a": torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0)) < 0.5})
    masks.save(str(tmp_path / "masks"))
    assert 125_000 < (tmp_path / "masks").stat().st_size < 126_000
    assert Masks.load(str(tmp_path / "masks")) == masks


def test_a_file_holds_logical_order(tmp_path: Path) -> None:
    mask = torch.rand(4, 3, 5, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    masks = Masks({"a": mask.contiguous(memory_format=torch.channels_last), "b": mask.transpose(0, 2)})
    masks.save(tmp_path / "masks")
    assert torch.equal(Masks.load(tmp_path / "masks")["a"], mask)
    assert torch.equal(Masks.load(tmp_path / "masks")["b"], mask.transpose(0, 2))


def rewritten(file: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    tensors = load_file(file)
    head = {"kind": "masks", "format": "1", "shapes": json.dumps({"a": [3, 7], "b": [2]})}
    change(tensors, head)
    save_file(tensors, file, head)


def shapes(**values: Any) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    return lambda tensors, head: head.update(shapes=json.dumps(values))


def tensor(value: Tensor) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    return lambda tensors, head: tensors.update(a=value)


DAMAGE: dict[str, Callable[[dict[str, Tensor], dict[str, str]], None]] = {
    "no kind": lambda tensors, head: head.pop("kind") and None,
    "other kind": lambda tensors, head: head.update(kind="weights"),
    "other format": lambda tensors, head: head.update(format="2"),
    "no shapes": lambda tensors, head: head.pop("shapes") and None,
    "shapes cut off": lambda tensors, head: head.update(shapes=head["shapes"][:-3]),
    "shapes no table": lambda tensors, head: head.update(shapes="[1, 2]"),
    "shapes a number": shapes(a=21, b=[2]),
    "shapes of words": shapes(a=["3", "7"], b=[2]),
    "shapes of parts": shapes(a=[3.0, 7.0], b=[2]),
    "shapes below zero": shapes(a=[-3, -7], b=[2]),
    "too large": shapes(a=[3, 9], b=[2]),
    "much too large": shapes(a=[2**40, 2**40], b=[2]),
    "too small": shapes(a=[3, 2], b=[2]),
    "a name more": shapes(a=[3, 7], b=[2], c=[1]),
    "a name less": shapes(a=[3, 7]),
    "floats": tensor(torch.ones(3)),
    "two axes": tensor(torch.ones(1, 3, dtype=torch.uint8)),
    "bytes missing": tensor(torch.ones(2, dtype=torch.uint8)),
    "bytes more": tensor(torch.ones(4, dtype=torch.uint8)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    file = tmp_path / "masks"
    Masks({"a": torch.ones(3, 7, dtype=torch.bool), "b": bits(1, 0)}).save(file)
    rewritten(file, lambda tensors, head: None)
    assert Masks.load(file).share == 22 / 23, "it is the damage that is refused"
    rewritten(file, DAMAGE[name])
    assert_raises(BadFile, lambda: Masks.load(file), str(file))


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    file = tmp_path / "masks"
    A.save(file)
    whole = file.read_bytes()
    for content in (b"", b"hello", whole[:-1], whole[: len(whole) // 2], whole + b"0", b"\xff" * 64):
        file.write_bytes(content)
        assert_raises(BadFile, lambda: Masks.load(file), str(file), "cannot be read")
    assert_raises(BadFile, lambda: Masks.load(tmp_path / "missing"), "missing")
    assert_raises(BadFile, lambda: Masks.load(tmp_path), str(tmp_path))
    save_file({"a": torch.ones(2)}, file)
    assert_raises(BadFile, lambda: Masks.load(file), "does not contain masks", "Masks.save")


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


def test_masks_are_not_laid_over_weights_that_are_made_into_others() -> None:
    masks = Masks({"0.weight": torch.rand(16, 4, 3, 3) < 0.5})
    model = nn.Sequential(timm.layers.StdConv2d(4, 16, 3))
    with assert_untouched(model):
        assert_raises(BadValue, lambda: masks.lay_over(model), "0.weight", "StdConv2d")
        assert_raises(BadValue, lambda: masks.held(model, sgd(model)), "0.weight", "StdConv2d")


def test_at_a_prompt_masks_say_how_many_weights_live() -> None:
    assert repr(A) == "<Masks: 5 of 7 weights unpruned in 2 tensors>"
