"""Merging: the merged model computes the same, is saved and loaded, and undone; what cannot be merged is refused."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from surgery.activations import Affine
from surgery.errors import BadFile, CannotEdit, NothingPicked, UnknownName, WrongModel
from surgery.merging.groups import linear_groups
from surgery.merging.layer import Layer
from surgery.merging.merged_model import _replay, merge
from surgery.merging.replacement import Replacement
from tests.models import randomise
from tests.surgery.merging.networks import IMAGES, NormAct, Plain, Residual


def erased(stand_in: str = "identity", padding: int = 0) -> nn.Module:
    model = randomise(Plain(padding)).eval()
    edited, _ = surgery.transform(model, surgery.erase(site="act1", stand_in=stand_in), IMAGES)
    if stand_in == "affine":
        line = edited.get_submodule("act1")
        assert isinstance(line, Affine)
        with torch.no_grad():
            line.weight.uniform_(-1, 1)
            line.bias.uniform_(-1, 1)
    return edited


@pytest.mark.parametrize("stand_in", ("identity", "affine"))
def test_two_convolutions_become_one_where_the_activation_between_was_erased(stand_in: str) -> None:
    model = erased(stand_in)
    before = copy.deepcopy(model.state_dict())
    merged, report = merge(model, example=IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(merged) is Plain
    assert [name for name, _ in merged.named_parameters()] == ["conv1.weight", "conv1.bias", "fc.weight", "fc.bias"]
    assert merged.conv1.kernel_size == (5, 5) and merged.conv1.padding == (1, 1)  # type: ignore[union-attr]
    torch.testing.assert_close(merged(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
    (row,) = report.merged
    assert row.group.layers == ("conv1", "bn1", *(("act1",) if stand_in == "affine" else ()), "conv2", "bn2")
    assert row.group.sites == ("act1",) and row.exact <= 1e-12 and row.error <= 1e-5 and report.error <= 1e-5
    assert report.macs == (11 * 12 * 6 * 3 * 9 + 9 * 10 * 4 * 6 * 9, 9 * 10 * 4 * 3 * 25)


def test_folded_stand_ins_are_sites_like_others(tmp_path: Path) -> None:
    model = surgery.fold_affine(erased("affine"), IMAGES)
    assert type(model.act1) is nn.Identity
    merged, report = merge(model, example=IMAGES)
    assert [row.group.sites for row in report.merged] == [("act1",)]
    surgery.save(merged, tmp_path)
    assert torch.equal(surgery.load(tmp_path, Plain()).eval()(IMAGES), merged(IMAGES))


def test_merging_leaves_the_caller_as_it_was() -> None:
    model, random = randomise(Plain()), torch.get_rng_state()
    hook = model.act2.register_forward_hook(lambda *_: None)
    with torch.inference_mode(), torch.autocast("cpu"):
        merged, _ = merge(model, example=IMAGES)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training and model.bn1.training and surgery.history_of(model) == ()
    assert not any(param.is_inference() or param.grad_fn for param in merged.parameters())
    assert hook.id in model.act2._forward_hooks and hook.id in merged.act2._forward_hooks  # type: ignore[union-attr]
    merged(IMAGES).sum().backward()
    assert merged.conv1.bias.grad is not None  # type: ignore[union-attr]


def test_without_an_erased_activation_only_the_norms_are_folded() -> None:
    model = randomise(Plain()).eval()
    merged, report = merge(model, example=IMAGES)
    assert [row.group.layers for row in report.merged] == [("conv1", "bn1"), ("conv2", "bn2")]
    assert type(merged.bn1) is nn.Identity and report.error <= 1e-5


def test_a_norm_with_its_activation_becomes_what_is_left_of_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4, nn.PReLU(4)), nn.Conv2d(4, 2, 1))
    merged, report = merge(randomise(model).eval(), example=IMAGES)
    assert [name for name, _ in merged[1].named_parameters()] == ["act.weight"]
    assert merged[1].act is not model[1].act and report.error <= 1e-5


def test_the_given_groups_alone_are_merged() -> None:
    model = randomise(Plain()).eval()
    groups = linear_groups(model, IMAGES)
    merged, report = merge(model, [groups[1]], IMAGES)
    assert type(merged.bn1) is nn.BatchNorm2d and type(merged.bn2) is nn.Identity
    assert len(report.merged) == 1
    with pytest.raises(UnknownName, match="no such group at conv2"):
        merge(merged, [groups[1]], IMAGES)
    with pytest.raises(NothingPicked, match="No group was given"):
        merge(model, [], IMAGES)


def test_a_group_without_an_exact_form_is_refused_before_anything_changes() -> None:
    model = erased(padding=1)
    groups = linear_groups(model, IMAGES)
    (refused,) = groups.refused
    assert refused.reason == (
        "the second convolution pads by 1x1 behind a bias: its border has no exact form; move the padding first"
    )
    with pytest.raises(CannotEdit, match="conv1 cannot be merged: the second convolution pads"):
        merge(model, groups, IMAGES)
    report = merge(model, example=IMAGES)[1]
    assert len(report.merged) == 2 and report.refused == (refused,)


def test_nothing_to_merge_is_an_error() -> None:
    with pytest.raises(NothingPicked, match="Nothing in this Sequential can be merged"):
        merge(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), example=IMAGES)
    with pytest.raises(CannotEdit, match="has no weights"):
        merge(Plain().to("meta"), example=IMAGES)
    whole = nn.Sequential(erased())
    with pytest.raises(CannotEdit, match="Only a part of this Sequential was edited"):
        merge(whole, example=IMAGES)


def test_undo_restores_the_modules_and_their_weights() -> None:
    model = erased("affine")
    merged, _ = merge(model, example=IMAGES)
    with torch.no_grad():
        merged.conv1.weight.zero_()  # type: ignore[union-attr, operator]
    copied = copy.deepcopy(merged)
    for one in (merged, copied):
        surgery.undo(one, 1)
        assert torch.equal(one(IMAGES), model(IMAGES))
        assert list(one.state_dict()) == list(model.state_dict())
    surgery.undo(merged)
    assert type(merged.act1) is nn.ReLU and surgery.history_of(merged) == ()


def test_a_merged_model_is_saved_and_loaded(tmp_path: Path) -> None:
    merged, _ = merge(erased("affine"), example=IMAGES)
    surgery.save(merged, tmp_path)
    loaded = surgery.load(tmp_path, Plain()).eval()
    assert torch.equal(loaded(IMAGES), merged(IMAGES))
    assert [step.kind for step in surgery.history_of(loaded)] == ["surgery", "merge"]
    with pytest.raises(CannotEdit, match="cannot be undone"):
        surgery.undo(loaded)
    with pytest.raises(WrongModel):
        surgery.load(tmp_path, nn.Sequential(Plain()))


def test_a_merged_model_that_was_never_edited_is_saved_and_edited_on(tmp_path: Path) -> None:
    merged, _ = merge(randomise(Plain()).eval(), example=IMAGES)
    edited, _ = surgery.transform(merged, surgery.swap("silu", site="act2"), IMAGES)
    surgery.save(edited, tmp_path)
    loaded = surgery.load(tmp_path, Plain()).eval()
    assert torch.equal(loaded(IMAGES), edited(IMAGES))
    surgery.undo(edited)
    assert type(edited.bn1) is nn.BatchNorm2d and type(edited.act2) is nn.ReLU


def test_edits_inside_merged_modules_are_saved_with_them(tmp_path: Path) -> None:
    """Also if another part with edits was replaced since, as a former head."""

    def fresh() -> nn.Sequential:
        head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        return nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4, nn.ReLU()), nn.Conv2d(4, 4, 1), nn.Tanh(), head)

    rules = [surgery.erase(site="1.act"), surgery.swap("silu", site="4.1")]
    edited, _ = surgery.transform(randomise(fresh()).eval(), rules, IMAGES)
    merged, report = merge(edited, example=IMAGES)
    assert report.merged[0].group.layers == ("0", "1", "2")
    surgery.save(merged, tmp_path / "whole")
    assert torch.equal(surgery.load(tmp_path / "whole", fresh()).eval()(IMAGES), merged(IMAGES))
    merged[4] = nn.Identity()
    surgery.save(merged, tmp_path / "other")
    other = fresh()
    other[4] = nn.Identity()
    assert torch.equal(surgery.load(tmp_path / "other", other).eval()(IMAGES), merged(IMAGES))


def test_a_file_that_asks_for_another_layer_than_its_weights_is_refused() -> None:
    layer = Layer(3, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1, True, "zeros")
    step = {"fingerprint": None, "data": {"replacements": [Replacement("conv1", layer).to_data()]}}
    with pytest.raises(WrongModel, match="do not fit the layer merged at conv1"):
        _replay(Plain(), step)
    with pytest.raises(BadFile, match="a merge that cannot be made"):
        _replay(Plain(), {"fingerprint": None, "data": {}})


def test_merged_models_are_exported_compiled_and_pickled(tmp_path: Path) -> None:
    block = Residual(4, 4, moved=True)
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), block)).eval()
    model, _ = surgery.transform(model, surgery.erase(site="*act1", activation="*", stand_in="affine"), IMAGES)
    merged, report = merge(model, example=IMAGES)
    assert [row.group.kind for row in report.merged] == ["chain", "block"]
    wanted = merged(IMAGES)
    exported = torch.export.export(merged, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), wanted)
    torch.testing.assert_close(torch.compile(merged, backend="eager", fullgraph=True)(IMAGES), wanted)
    torch.save(merged, tmp_path / "merged.pt")
    assert torch.equal(torch.load(tmp_path / "merged.pt", weights_only=False)(IMAGES), wanted)
    operators = Counter(node.target for node in torch.export.export(merged, (IMAGES,)).graph.nodes)
    assert operators[torch.ops.aten.conv2d.default] == 2 and torch.ops.aten.batch_norm.default not in operators
    assert torch.ops.aten.add.Tensor not in operators


@pytest.mark.slow
def test_a_merged_model_runs_in_onnxruntime() -> None:
    merged, _ = merge(erased(), example=IMAGES)
    report = surgery.deploy.check(merged, "onnxruntime", IMAGES)
    assert report.error <= 1e-4


def test_bfloat16_and_float64_models_are_merged_in_their_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        x = IMAGES.to(dtype)
        model = randomise(Plain()).eval().to(dtype)
        merged, report = merge(model, example=x)
        assert {param.dtype for param in merged.parameters()} == {dtype}
        assert report.exact <= 1e-12


def test_channels_last_stays() -> None:
    for layout in (torch.channels_last, torch.contiguous_format):
        model = randomise(Plain()).eval().to(memory_format=layout)
        merged, _ = merge(model, example=IMAGES)
        assert merged.conv2.weight.is_contiguous(memory_format=layout)  # type: ignore[union-attr, operator]


def test_frozen_layers_stay_frozen_and_the_mode_stays() -> None:
    model = randomise(Plain())
    model.conv1.requires_grad_(False)
    merged, _ = merge(model.train(), example=IMAGES)
    assert not merged.conv1.weight.requires_grad and merged.conv2.weight.requires_grad
    assert all(module.training for module in merged.modules())
    merged(IMAGES).sum().backward()
