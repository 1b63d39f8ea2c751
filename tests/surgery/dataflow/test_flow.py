"""Flow: tensors that share memory, writes through any of them, and tensors that leave the trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.look.site import Sites
from tests import models
from tests.models.copies import WAYS, ConcatInPlace, Copying

DEPENDS_ON_FLOW = ("role", "block", "position", "positions", "joins_by", "branch", "fed_by", "feeds", "weights", "norm")


def flow_of(sites: Sites) -> list[tuple[Any, ...]]:
    return [(str(site), *(getattr(site, fact) for fact in DEPENDS_ON_FLOW)) for site in sites]


class Reading(nn.Module):
    """A model that reads a value of its input, so that it does not run on meta."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x if bool(x.sum() > -1e9) else x + 1)


@pytest.mark.parametrize("numbers", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_into_a_part_changes_no_fact(way: str, numbers: bool) -> None:
    plain, copying = Copying(), Copying(WAYS[way])
    if numbers:
        plain, copying = Reading(plain), Reading(copying)  # type: ignore[assignment]
    found = surgery.find_sites(copying, models.picture())
    assert not found.unseen
    roles = [site.role for site in found]
    assert roles == ["nonlinearity", *["nonlinearity", "gate", "gate", "nonlinearity"] * 2, "head"]
    assert flow_of(found) == flow_of(surgery.find_sites(plain, models.picture()))


def test_parts_written_side_by_side_are_a_concat() -> None:
    written, joined = (
        surgery.find_sites(nn.Sequential(ConcatInPlace(way), nn.Conv2d(6, 1, 1)), models.picture())
        for way in (True, False)
    )
    assert flow_of(written) == flow_of(joined)
    assert [(site.block, site.branch, site.feeds) for site in written] == [("0", 0, ("concat",)), ("0", 1, ("concat",))]


def test_a_part_is_not_read_by_who_reads_another() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            both = torch.empty(len(x), 8, device=x.device)
            both[:, :4] = self.a(x).relu()
            both[:, 4:] = torch.sigmoid(self.b(both[:, :4]))
            return both[:, :4] * both[:, 4:] @ torch.ones(4, 1, device=x.device)

    relu, sigmoid = surgery.find_sites(Net(), torch.rand(2, 4))
    assert (relu.feeds, sigmoid.role, sigmoid.feeds) == (("linear", "mul"), "gate", ("mul",))


def test_a_full_overwrite_keeps_nothing_of_before() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y[:, :2].copy_(x[:, :2])
            y[:] = self.b(x)
            return F.relu(y)

    [site] = surgery.find_sites(Net(), torch.rand(2, 4))
    assert (site.fed_by, site.weights) == (("linear",), ("b.weight",))


def test_what_is_written_into_a_buffer_of_the_model_is_data() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("bank", torch.zeros(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.bank.copy_(self.fc(x))
            return torch.sigmoid(self.bank) * x @ torch.ones(4, 1, device=x.device)

    [site] = surgery.find_sites(Net(), torch.rand(2, 4))
    assert (site.role, site.fed_by, site.weights) == ("gate", ("linear",), ("fc.weight",))


def test_a_rectified_half_leaves_the_other_as_it_was() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.fc(x).chunk(2, 1)
            return self.act(first) + second

    [site] = surgery.find_sites(Net(), torch.rand(2, 4))
    assert (site.inplace, site.overwrites) == (True, False)


# Detectors


def detector(name: str) -> nn.Module:
    build = torchvision.models.get_model_builder(name)
    return build(weights=None, weights_backbone=None, min_size=64, max_size=64).eval()


PICTURES = ([torch.rand(3, 64, 64), torch.rand(3, 64, 48)],)


@pytest.mark.slow
def test_a_detector_is_picked_from_as_its_backbone_alone() -> None:
    model = detector("fasterrcnn_resnet50_fpn")
    body = model.backbone.body
    alone = surgery.make_plan(surgery.find_sites(body, torch.rand(2, 3, 64, 64)), surgery.erase_relu())
    whole = surgery.find_sites(model, PICTURES)
    inside = [str(edit.site) for edit in surgery.make_plan(whole, surgery.erase_relu()).edits]
    assert [name for name in inside if name.startswith("backbone.body.")] == [
        f"backbone.body.{edit.site}" for edit in alone.edits
    ]
    assert len(alone.edits) == 16
    assert [site.role for site in whole.where(activation="sigmoid")] == ["head"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_scores_of_a_detector_are_heads(name: str) -> None:
    sites = surgery.find_sites(detector(name), PICTURES)
    assert {site.role for site in sites.where(activation="sigmoid")} == {"head"}
    assert {site.role for site in sites.where(activation="relu")} == {"nonlinearity"}


# Out of sight


class Through(nn.Module):
    """A gate with `hidden` in front of or behind it."""

    def __init__(self, hidden: Callable[[Tensor], Tensor], where: str) -> None:
        super().__init__()
        self.a, self.b, self.act, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        self.gate, self.hidden, self.where = nn.Sigmoid(), hidden, where

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.a(x))
        if self.where == "in":
            return self.last(self.gate(self.b(self.hidden(y))) + 0.1)
        return self.last(self.hidden(self.gate(self.b(y))))


HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {
    "numpy": lambda x: torch.from_numpy(x.numpy() * 1.0),
    "list": lambda x: torch.tensor(x.tolist()),
    "item": lambda x: torch.stack([torch.stack([torch.tensor(value.item()) for value in row]) for row in x]),
    "extension": lambda x: _ignored(x),
}


def _ignored(x: Tensor) -> Tensor:
    """Like an operation of an extension, which is not a torch function."""
    with torch._C.DisableTorchFunction():
        return x * 1.0


@pytest.mark.parametrize("where", ["in", "out"])
@pytest.mark.parametrize("way", HIDDEN)
def test_what_goes_out_of_sight_is_not_exchanged_unless_named(way: str, where: str) -> None:
    model, rows = Through(HIDDEN[way], where), torch.rand(2, 4)
    sites = surgery.find_sites(model, rows)
    gate = sites.where(activation="sigmoid")[0]
    assert gate.role == "unknown"
    assert ("unknown" in gate.fed_by) == (where == "in")
    plan = surgery.make_plan(sites, surgery.swap("silu", optional=True))
    # What leads to the sigmoid alone is part of the gate, if it is one.
    assert [str(edit.site) for edit in plan.edits] == (["act"] if where == "in" else [])
    assert "cannot be traced" in dict(plan.kept)[gate]
    for named in ({"site": "gate"}, {"module": "gate"}, {"role": "unknown"}, {"owner": ""}):
        plan = surgery.make_plan(sites, surgery.swap("silu", activation="sigmoid", **named))
        assert [str(edit.site) for edit in plan.edits] == ["gate"]


@pytest.mark.parametrize("key", ["site", "owner", "module"])
def test_a_wildcard_names_nothing(key: str) -> None:
    sites = surgery.find_sites(Through(HIDDEN["numpy"], "in"), torch.rand(2, 4))
    for pattern in ("*", "re:.*", ("*", "re:.*")):
        plan = surgery.make_plan(sites, surgery.swap("silu", **{key: pattern}))
        assert [str(edit.site) for edit in plan.edits] == ["act"]
        assert "cannot be traced" in dict(plan.kept)[sites.where(activation="sigmoid")[0]]
    both = surgery.make_plan(sites, surgery.swap("silu", **{key: ("*", "" if key == "owner" else "gate")}))
    assert [str(edit.site) for edit in both.edits] == ["act", "gate"]


SCALE = torch.tensor(0.5)


class Constants(nn.Module):
    """A sigmoid between layers, scaled by constants of all kinds: its role is neither gate nor unknown."""

    table = torch.rand(4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.parts = nn.Linear(4, 4), nn.Linear(4, 4), {"shift": [torch.rand(4)]}

    def forward(self, x: Tensor) -> Tensor:
        here = torch.tensor([1.0, 2.0, 3.0, 4.0])
        y = self.a(x * SCALE) * self.table + self.parts["shift"][0]
        return self.b(torch.sigmoid(y * here) * SCALE)


def test_constants_are_not_unknown() -> None:
    [site] = surgery.find_sites(Constants(), torch.rand(2, 4))
    assert (site.role, site.fed_by, site.feeds) == ("nonlinearity", ("linear",), ("linear",))


# Weights


class Fusion(nn.Module):
    """Features that are added with weights made positive, as in EfficientDet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.ReLU()
        self.edges = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.relu(self.edges)
        return self.act(first * self.a(x) + second * self.b(x))


class Refined(nn.Module):
    """An estimate that starts as zeros and is refined twice by the same code, as in RAFT."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.conv = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        guess = torch.zeros_like(x)
        for _ in range(2):
            guess = guess + self.conv(x) * self.step(guess)
        return guess


def test_code_that_runs_on_constants_first_is_for_data() -> None:
    model, picture = Refined(), models.picture()
    sites = surgery.find_sites(model, picture)
    assert len(sites) == 2 and len({site.role for site in sites}) == 1 and sites[0].role != "weight"
    edited, report = surgery.transform(model, surgery.swap("prelu", role="*"), picture)
    assert len(report.plan.edits) == 2
    assert torch.equal(edited(picture), model(picture))


def test_activations_of_weights_are_left_alone() -> None:
    model, picture = Fusion(), models.picture()
    of_weights, of_data = sites = surgery.find_sites(model, picture)
    assert (of_weights.role, of_weights.fed_by, of_weights.weights) == ("weight", ("weight",), ("edges",))
    assert (of_data.role, of_data.fed_by, of_data.block) == ("nonlinearity", ("add",), None)
    edited, report = surgery.transform(model, surgery.swap("prelu"), picture)
    assert [str(edit.site) for edit in report.plan.edits] == ["act"]
    assert edited(picture).shape == (2, 4, 8, 8)
    for named in ({"role": "weight"}, {"site": "relu"}):
        assert [edit.site for edit in surgery.make_plan(sites, surgery.swap("softplus", **named)).edits] == [of_weights]


# Channels


class OtherWidths(nn.Module):
    """One call, at 6 channels in eval and at 4 in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act((self.a if self.training else self.b)(x)).mean(1)


def test_a_call_at_other_widths_in_train_mode_shares_its_parameters() -> None:
    model, picture = OtherWidths(), models.picture()
    [site] = surgery.find_sites(model, picture)
    assert (site.channels, site.other_channels) == (6, (4,))
    edited, _ = surgery.transform(model, surgery.swap("prelu"), picture)
    assert [tuple(param.shape) for param in edited.act.parameters()] == [(1,)]
    for mode in (True, False):
        assert edited.train(mode)(picture).shape == (2, 8, 8)
    with pytest.raises(surgery.SurgeryError, match="act is called at 4 and 6 channels"):
        surgery.transform(model, surgery.swap("pwlu", per="channel"), picture)


class OneNumber(nn.Module):
    """One number per sample is rectified: its only axis is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x).squeeze(-1)).unsqueeze(-1))


@pytest.mark.parametrize("to", ["prelu", "pwlu", "npwlu", "frelu", "affine"])
def test_one_number_per_sample_is_one_channel(to: str) -> None:
    edited, _ = surgery.transform(OneNumber(), surgery.swap(to), torch.rand(3, 4))
    assert {param.shape[-1] for param in edited.act.parameters()} == {1}
    assert edited(torch.rand(5, 4)).shape == (5, 2)  # any other batch


# Blocks


def joining(name: str) -> nn.Module:
    """A network with a residual block whose class has this name."""

    def __init__(self: nn.Module) -> None:
        nn.Module.__init__(self)
        self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self: Any, x: Tensor) -> Tensor:
        return x + self.conv(self.act(self.conv(x)))

    kind = type(name, (nn.Module,), {"__init__": __init__, "forward": forward})
    return nn.Sequential(nn.Conv2d(3, 3, 1), kind(), nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("name", ["Block", "Arithmetic", "FloatFunctional"])
def test_a_class_that_shares_the_name_of_an_adder_joins_in_its_own_right(name: str) -> None:
    [site] = surgery.find_sites(joining(name), models.picture())
    assert (site.block, site.joins_by) == ("1", "add")
