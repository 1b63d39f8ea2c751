"""Restructure: blocks that are dropped, or whose padding is moved, leave everything else as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import CannotEdit, NotProved, RuleConflict, UnknownName
from tests import models
from tests.asserts import assert_raises, assert_same_function, assert_untouched
from tests.models import randomise


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.bn2, self.act2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act2(x + self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    """A stem, three blocks, and a classifier."""

    example = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.blocks = nn.Sequential(*(Residual(4) for _ in range(3)))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.act(self.stem(x))).mean((2, 3)))


def without(model: Net, index: int) -> Net:
    """The network written without one of its blocks, with the same weights."""
    shorter = Net()
    shorter.load_state_dict(model.state_dict())
    shorter.blocks[index] = nn.Sequential()
    return shorter.eval()


@pytest.mark.parametrize("index", range(3))
def test_a_dropped_block_is_the_identity(index: int) -> None:
    model = randomise(Net()).eval()
    edited, report = surgery.transform(model, surgery.drop(block=f"blocks.{index}"), Net.example)
    with torch.no_grad():
        assert torch.equal(edited(Net.example), without(model, index)(Net.example))
        assert not torch.equal(edited(Net.example), model(Net.example))
    assert [(str(edit.site), edit.make) for edit in report.plan.edits] == [(f"blocks.{index}", "dropped")]
    assert len(report.after) == len(report.before) - 2
    assert set(report.removed) == {f"blocks.{index}.{name}" for name, _ in model.blocks[index].named_parameters()}
    assert "1 block dropped; 5 calls kept" in str(report)


def test_a_wildcard_drops_what_can_be_dropped_and_says_why_the_rest_stays() -> None:
    model = randomise(models.ResidualNet()).eval()
    plan = surgery.make_plan(surgery.find_sites(model, models.ResidualNet.example), surgery.drop(block="layer1.*"))
    assert [str(edit.site) for edit in plan.edits] == ["layer1.0"]
    assert "1 (cannot be dropped: its shortcut is not the identity)" in str(plan)
    assert str(plan).startswith("0 of 5 activation calls of ResidualNet will be edited, 1 block dropped")


def test_a_block_named_in_full_must_be_one_that_can_be_dropped() -> None:
    sites = surgery.find_sites(models.ResidualNet(), models.ResidualNet.example)
    assert_raises(
        CannotEdit,
        lambda: surgery.make_plan(sites, surgery.drop(block="layer1.1")),
        "layer1.1 cannot be dropped: its shortcut is not the identity",
    )
    assert_raises(
        UnknownName,
        lambda: surgery.make_plan(sites, surgery.drop(block="layer2.0")),
        "no site has a block like 'layer2.0'",
    )


def test_nothing_else_is_edited_inside_a_dropped_block() -> None:
    sites = surgery.find_sites(Net(), Net.example)
    assert_raises(
        RuleConflict,
        lambda: surgery.make_plan(sites, [surgery.erase(site="blocks.0.act1"), surgery.drop(block="blocks.0")]),
        "blocks.0.act1 is in blocks.0, which is dropped",
    )


def test_calls_are_edited_and_blocks_dropped_by_one_plan() -> None:
    model = randomise(Net()).eval()
    rules = [surgery.erase(site="blocks.0.act1"), surgery.swap("silu", site="act"), surgery.drop(block="blocks.1")]
    edited, report = surgery.transform(model, rules, Net.example)
    one_by_one = model
    for rule in rules:
        one_by_one, _ = surgery.transform(one_by_one, rule, Net.example)
    with torch.no_grad():
        assert torch.equal(edited(Net.example), one_by_one(Net.example))
    assert [site.activation for site in report.after] == ["silu", "relu", "relu", "relu"]


def test_dropping_is_undone_saved_and_loaded(tmp_path: Path) -> None:
    model = randomise(Net()).eval()
    edited, _ = surgery.transform(model, surgery.erase(site="blocks.1.act1"), Net.example)
    surgery.transform_(edited, surgery.drop(block=("blocks.0", "blocks.1")), Net.example)
    surgery.save(edited, tmp_path / "net")
    loaded = surgery.load(tmp_path / "net", randomise(Net(), seed=1).eval())
    with torch.no_grad():
        assert torch.equal(loaded(Net.example), edited(Net.example))
    surgery.undo(edited, steps=1)
    assert len(surgery.find_sites(edited, Net.example)) == 6
    assert_same_function(surgery.undo(edited), model, Net.example)


def test_dropped_blocks_train_and_stay_out_of_the_gradient() -> None:
    edited, _ = surgery.transform(Net(), surgery.drop(block="blocks.1"), Net.example)
    edited.train()(Net.example).sum().backward()
    assert all(param.grad is not None for param in edited.parameters())


def test_a_block_whose_owner_reads_it_is_refused_and_nothing_changes() -> None:
    class Reads(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.stem(x))
            for block in self.blocks:
                x = block(x) if isinstance(block, Residual) else 2 * block(x)
            return self.fc(x.mean((2, 3)))

    model = randomise(Reads()).eval()
    with assert_untouched(model):
        assert_raises(
            NotProved,
            lambda: surgery.transform_(model, surgery.drop(block="blocks.1"), Net.example),
            "Dropping changed more than the blocks",
        )


def test_the_same_rule_twice_is_refused() -> None:
    edited, _ = surgery.transform(Net(), surgery.drop(block="blocks.1"), Net.example)
    assert_raises(
        CannotEdit, lambda: surgery.transform_(edited, surgery.drop(block="blocks.1"), Net.example), "already applied"
    )


def test_what_is_no_path_is_no_block() -> None:
    for pattern in (None, 3, (), ("layer1.0", None)):
        assert_raises(surgery.BadValue, lambda pattern=pattern: surgery.drop(pattern), "path of a block")  # type: ignore[arg-type]


def moved(model: nn.Module) -> list[tuple[int, ...]]:
    return [layer.padding for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def test_padding_moves_to_the_first_convolution_where_nothing_is_between() -> None:
    model = randomise(Net()).eval()
    rules = [surgery.erase(site="blocks.1.act1"), surgery.move_padding(block="blocks.1")]
    edited, report = surgery.transform(model, rules, Net.example)
    assert moved(edited) == [(1, 1), (1, 1), (1, 1), (2, 2), (0, 0), (1, 1), (1, 1)]
    assert "1 block with their padding moved" in str(report)
    erased, _ = surgery.transform(model, rules[0], Net.example)
    with torch.no_grad():
        x = torch.relu(model.stem(Net.example))
        inside, before = edited.blocks[1](x), erased.blocks[1](x)
        assert torch.allclose(inside[:, :, 1:-1, 1:-1], before[:, :, 1:-1, 1:-1], rtol=0, atol=1e-5)
        assert not torch.allclose(inside, before, rtol=0, atol=1e-3)  # the border


def test_moved_padding_is_undone_saved_and_loaded(tmp_path: Path) -> None:
    model = randomise(Net()).eval()
    edited, _ = surgery.transform(model, [surgery.erase(position=1), surgery.move_padding()], Net.example)
    assert moved(edited)[1:] == [(2, 2), (0, 0)] * 3
    surgery.save(edited, tmp_path / "net")
    loaded = surgery.load(tmp_path / "net", randomise(Net(), seed=1).eval())
    with torch.no_grad():
        assert torch.equal(loaded(Net.example), edited(Net.example))
    assert moved(surgery.undo(edited)) == moved(model) == [(1, 1)] * 7
    assert_same_function(edited, model, Net.example)


def test_a_block_with_moved_padding_merges_into_one_convolution() -> None:
    model = randomise(Net()).eval()
    rules = [surgery.erase(site="blocks.1.act1"), surgery.move_padding(block="blocks.1")]
    edited, _ = surgery.transform(model, rules, Net.example)
    merged, _ = surgery.merge(edited, example=Net.example)
    with torch.no_grad():
        assert torch.allclose(merged(Net.example), edited(Net.example), rtol=0, atol=1e-5)
    kernels = [layer.kernel_size for layer in merged.blocks[1].modules() if isinstance(layer, nn.Conv2d)]
    assert kernels == [(5, 5)]


def test_padding_stays_where_an_activation_is_between() -> None:
    model = randomise(Net()).eval()
    with assert_untouched(model):
        assert_raises(
            CannotEdit,
            lambda: surgery.transform_(model, surgery.move_padding(), Net.example),
            "No padding can be moved",
        )


def test_a_stage_of_a_plain_network_is_not_moved_alone() -> None:
    model = randomise(models.PlainNet()).eval()
    stage = str(surgery.find_sites(model, models.PlainNet.example).blocks[0])
    assert_raises(
        CannotEdit,
        lambda: surgery.transform(
            model, [surgery.erase_relu(), surgery.move_padding(block=stage)], models.PlainNet.example
        ),
        "not a module",
    )
    edited, _ = surgery.transform(model, [surgery.erase_relu("first"), surgery.move_padding()], models.PlainNet.example)
    assert moved(edited) != moved(model)


def test_undoing_a_drop_keeps_the_modes_and_the_hooks_inside() -> None:
    model, heard = randomise(Net()).train(), list[str]()
    model.blocks[1].bn1.eval()
    model.blocks[1].register_forward_hook(lambda *_: heard.append("block"))
    surgery.transform_(model, surgery.drop(block="blocks.1"), Net.example)
    model(Net.example)
    assert heard == ["block"]  # like that of an activation, the hook moves to what takes its place
    surgery.undo(model)
    assert [module.training for module in model.blocks[1].modules()].count(False) == 1
    model(Net.example)
    assert heard == ["block"] * 2
