"""Groups: what is listed, and how it prints."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import surgery
from surgery.look.example import Example
from surgery.merging.forward import forward_of
from surgery.merging.groups import LinearGroup, exact_map, linear_groups, sections_of
from surgery.merging.maps.values import Values
from tests.models import randomise
from tests.surgery.merging.networks import IMAGES, Plain, seen


def test_the_groups_of_a_model_are_listed_and_printed() -> None:
    model = randomise(Plain(padding=1)).eval()
    edited, _ = surgery.transform(model, surgery.erase(site="act1"), IMAGES)
    groups = linear_groups(edited, IMAGES)
    assert groups[0] == LinearGroup(
        "conv1", "chain", ("conv1", "bn1"), (), (3, 3), (1, 1), 1, 11 * 12 * 6 * 27, 11 * 12 * 6 * 27
    )
    assert len(groups) == 3 and len(groups.mergeable) == 2 and len(groups.refused) == 1
    assert repr(groups) == "<LinearGroups: Plain: 2 groups can be merged, 1 cannot>"
    lines = str(groups).splitlines()
    assert lines[1].split()[:4] == ["group", "kind", "layers", "sites"] and len(lines) == 5
    assert "not merged: the second convolution pads by 1x1 behind a bias" in str(groups)
    assert "<table>" in groups._repr_html_()
    assert list(groups) == list(groups[:])


def test_listing_changes_nothing() -> None:
    model = Plain()
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    linear_groups(model, IMAGES)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_exact_map_has_the_values_of_the_model() -> None:
    model = randomise(Plain()).eval()
    forward, _ = seen(model)
    made = exact_map(model, forward, sections_of(model, forward, Values(model, shapes_only=True))[0])
    scale = model.bn1.weight / (model.bn1.running_var + model.bn1.eps).sqrt()
    torch.testing.assert_close(made.weight.float(), (model.conv1.weight * scale.reshape(-1, 1, 1, 1)).detach())


def test_linear_layers_are_multiplied_from_the_narrow_end() -> None:
    head = randomise(nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 32), nn.Linear(32, 2))).eval()
    features = torch.randn(2, 64)
    forward = forward_of(head, Example.of(features, head))
    (section,) = sections_of(head, forward, Values(head, shapes_only=True))
    with FlopCounterMode(display=False) as counted:
        made = exact_map(head, forward, section)
    torch.testing.assert_close(nn.functional.linear(features.double(), made.weight, made.bias).float(), head(features))
    assert counted.get_total_flops() < 2 * 64 * 32 * 32  # the first product alone, from the wide end
