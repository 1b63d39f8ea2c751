"""AP's choice: which weights it cuts first, by hand and against a naive count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.ap.ap import with_ap
from pruning.ap.choice import Choice, cut_by_ap
from pruning.dead.meter import DeadNeuronMeter
from pruning.rounds.round import Round, snapshot
from surgery.errors import BadValue, WrongModel
from tests.asserts import assert_raises, assert_untouched
from tests.pruning.ap.by_hand import BEFORE, NOW, by_hand, cut_places, magnitude, nothing, vgg_with_norms


@pytest.mark.parametrize(
    ("among", "by", "count", "places"),
    [
        ("negative", "still", 2, [0, 1]),
        ("negative", "still", 4, [0, 1, 2, 7]),
        ("negative", "magnitude", 2, [0, 7]),
        ("positive", "still", 1, [6]),
        ("positive", "still", 2, [3, 6]),
        ("positive", "magnitude", 1, [3]),
        ("any", "still", 3, [1, 3, 6]),
        ("any", "magnitude", 2, [5, 7]),
    ],
)
def test_choices_by_hand(among, by, count, places) -> None:
    round = by_hand(BEFORE, NOW)
    masks = with_ap(nothing, count / 8, among, by)(round, count / 8)
    assert cut_places(round, masks) == places


def test_equal_moves_are_cut_by_position() -> None:
    round = by_hand([0.0] * 6, [-1.0, 1.0, -1.0, -1.0, -1.0, -1.0], dead=(0,))
    assert cut_places(round, with_ap(nothing, 0.4)(round, 0.4)) == [2, 3]


def test_small_moves_of_halves_are_told_apart() -> None:
    # In half precision both moved by 1.
    layer = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(-1)
    round = Round.of(layer, {"weight": torch.tensor([[1 / 512, 0.0]], dtype=torch.bfloat16)})
    assert cut_places(round, with_ap(nothing, 0.5)(round, 0.5)) == [1]


def test_random_is_seeded_and_keeps_to_the_sign() -> None:
    now = torch.randn(400).tolist()
    round = by_hand([0.0] * 400, now)
    first, again = (cut_places(round, with_ap(nothing, 0.1, by="random", seed=3)(round, 0.1)) for _ in range(2))
    other = cut_places(round, with_ap(nothing, 0.1, by="random", seed=4)(round, 0.1))
    still = cut_places(round, with_ap(nothing, 0.1)(round, 0.1))
    assert first == again and len(first) == 40 and all(now[place] < 0 for place in first)
    assert first != other and first != still
    with_rng = torch.get_rng_state()
    with_ap(nothing, 0.1, by="random")(round, 0.1)
    assert torch.equal(with_rng, torch.get_rng_state())


# Weights that hold dead units down


def silent_net() -> nn.Module:
    """Three units: the first two are silent on positive inputs, the first by its weights, the second by its bias."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0, -3.0, 0.25], [2.0, -2.0, -1.5], [1.0, -1.0, 1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, -100.0, 0.0]))
    return model


BATCHES = [torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 3.0]]), torch.tensor([[1.0, 1.0, 9.0], [1.0, 1.0, 5.0]])]
#  means 1, 1, 5: contributions [[-1, -3, 1.25], [2, -2, -7.5], [...]]


@pytest.mark.parametrize(("count", "places"), [(1, [5]), (2, [1, 5]), (3, [1, 4, 5]), (4, [0, 1, 4, 5])])
def test_what_holds_dead_units_down_goes_first(count, places) -> None:
    model = silent_net()
    round = Round.of(model, snapshot(model))
    share = count / round.masks.alive
    with assert_untouched(model):
        masks = with_ap(nothing, share, by="dead", batches=BATCHES)(round, share)
    cut = round.masks["0.weight"] & ~masks["0.weight"]
    assert cut.flatten().nonzero().flatten().tolist() == places
    assert bool(masks["2.weight"].all())


def test_dead_agrees_with_a_naive_count_on_a_vgg() -> None:
    model, shape = vgg_with_norms()
    model.eval()
    with torch.no_grad():
        for place in (1, 5, 8):  # norms: a shift far below zero silences the channel
            model[0][place].bias[::3] = -50.0
    batches = [torch.randn(shape) for _ in range(2)]
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.setdefault(name, []).append(inputs[0])
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        outputs = [[model[0][: place + 1](x) for x in batches] for place in (1, 5, 8)]
        seen.clear()
        for x in batches:
            model(x)
    for hook in hooks:
        hook.remove()

    entries = []
    for conv, output in zip(("0.0", "0.4", "0.7"), outputs, strict=True):
        weight = model.get_submodule(conv).weight.detach()
        means = torch.cat(seen[conv]).mean((0, 2, 3))
        silent = (torch.cat(output).amax((0, 2, 3)) <= 0).tolist()
        assert 0 < sum(silent) < len(silent)
        for o, i, y, x in torch.ones_like(weight).nonzero().tolist():
            held = float(weight[o, i, y, x] * means[i])
            if silent[o] and weight[o, i, y, x] < 0 and held < 0:
                entries.append((held, f"{conv}.weight", (o, i, y, x)))
    many = len(entries) // 2
    edges = [held for held, *_ in sorted(entries)[many - 1 : many + 1]]
    assert edges[1] - edges[0] > 1e-6 * abs(edges[0])  # sums in another order do not swap these

    round = Round.of(model, snapshot(model))
    masks = cut_by_ap(round, many, Choice(by="dead", batches=batches))
    cut = {(name, tuple(at)) for name, mask in masks.items() for at in (~mask).nonzero().tolist()}
    assert cut == {(name, at) for _, name, at in sorted(entries)[:many]}


def metered(model: nn.Module, *steps: list[Tensor], every: int = 1) -> DeadNeuronMeter:
    """A meter after some epochs, each of these batches, that was reset before the last."""
    meter = DeadNeuronMeter(model.train(), every, inputs=True)
    with meter:
        for epoch in steps:
            meter.reset()
            for x in epoch:
                model(x)
    return meter


def test_units_may_be_measured_in_training_instead() -> None:
    model = silent_net()
    awake = [-batch for batch in BATCHES]  # on which the first unit is active
    round, share = Round.of(model, snapshot(model)), 3 / 15
    assert round.masks.alive == 15
    after = with_ap(nothing, share, by="dead", batches=BATCHES)(round, share)
    assert with_ap(nothing, share, by="dead", meter=metered(model, awake, BATCHES))(round, share) == after
    unseen = metered(model, [*BATCHES, *awake], every=4)
    assert with_ap(nothing, share, by="dead", meter=unseen)(round, share) == after
    whole = metered(model, [*BATCHES, *awake])
    assert_raises(BadValue, lambda: with_ap(nothing, share, by="dead", meter=whole)(round, share), "too few")


def test_a_meter_of_another_model_or_without_inputs_or_forwards_is_refused() -> None:
    model, other = silent_net(), silent_net()
    round = Round.of(model, snapshot(model))
    of_other, fresh = metered(other, BATCHES), DeadNeuronMeter(model, inputs=True)
    cut = [lambda meter=meter: with_ap(nothing, 0.1, by="dead", meter=meter)(round, 0.1) for meter in (of_other, fresh)]
    assert_raises(WrongModel, cut[0], "another model")
    assert_raises(BadValue, cut[1], "No forward was observed")
    for meter in (DeadNeuronMeter(model), BATCHES):
        assert_raises(BadValue, lambda meter=meter: Choice(by="dead", meter=meter), "inputs=True")  # type: ignore[misc]
    assert_raises(BadValue, lambda: Choice(by="still", meter=fresh), 'by="dead"')
    assert_raises(BadValue, lambda: Choice(by="dead", batches=BATCHES, meter=fresh), "exclude each other")


def test_dead_keeps_to_the_sign_and_to_living_weights() -> None:
    model = silent_net()
    with torch.no_grad():
        model[0].weight[1, 1] = 0  # does not live
    round = Round.of(model, snapshot(model))
    assert_raises(
        BadValue, lambda: with_ap(nothing, 4 / 14, by="dead", batches=BATCHES)(round, 4 / 14),
        "3 of them", "negative", "dead units",
    )  # fmt: skip
    assert_raises(
        BadValue, lambda: with_ap(nothing, 1 / 14, "positive", "dead", batches=BATCHES)(round, 1 / 14), "0 of them"
    )
    # A positive weight holds a unit down where its input is negative.
    below = [batch * torch.tensor([-1.0, 1.0, 1.0]) for batch in BATCHES]
    masks = with_ap(nothing, 1 / 14, "positive", "dead", batches=below)(round, 1 / 14)
    assert (round.masks["0.weight"] & ~masks["0.weight"]).nonzero().tolist() == [[1, 0]]


def test_nothing_dead_is_a_shortfall() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.constant_(model[0].bias, 100.0)
    round = Round.of(model, snapshot(model))
    pruner = with_ap(magnitude, 0.2, by="dead", batches=BATCHES)
    assert_raises(BadValue, lambda: pruner(round, 0.4), "0 of them")
    given_back = with_ap(magnitude, 0.2, by="dead", batches=BATCHES, shortfall="host")(round, 0.4)
    assert given_back == magnitude(round, 0.4)


def with_a_norm(scale: list[float]) -> nn.Sequential:
    """Three units whose signs a norm changes by its scale, all silent because of its bias."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0, -3.0, 0.25], [2.0, -2.0, 1.5], [-4.0, -4.0, -4.0]]))
        model[1].weight.copy_(torch.tensor(scale))
        model[1].bias.fill_(-1000.0)
    return model


def test_behind_a_negative_scale_it_is_the_other_way_round() -> None:
    # Means 1, 1, 5: the second unit's norm turns [2, -2, 7.5] into what its positive weights hold down.
    model = with_a_norm([1.0, -0.5, 0.0])
    round = Round.of(model, snapshot(model))
    share = 4 / round.masks.alive
    with assert_untouched(model):
        masks = with_ap(nothing, share, "any", "dead", batches=BATCHES)(round, share)
    cut = round.masks["0.weight"] & ~masks["0.weight"]
    assert cut.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 2]]  # behind a scale of 0 nothing is held down
    more = 5 / round.masks.alive
    assert_raises(BadValue, lambda: with_ap(nothing, more, "any", "dead", batches=BATCHES)(round, more), "4 of them")


def test_a_round_runs_the_batches_once() -> None:
    model, forwards, read = silent_net(), [], []

    class Counting(list):
        def __iter__(self):
            read.append(1)
            return super().__iter__()

    round = Round.of(model, snapshot(model))
    model.register_forward_hook(lambda *_: forwards.append(1))
    with_ap(nothing, 1 / 15, by="dead", batches=Counting(BATCHES))(round, 1 / 15)
    assert len(read) == 1 and len(forwards) == len(BATCHES)


# What takes part


def test_a_frozen_layer_takes_no_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    before = snapshot(model)
    with torch.no_grad():
        model[2].weight.sub_(1)
        model[2].weight[0, 0] = before["2.weight"][0, 0] = -0.5  # a weight that rests in a layer that learns
    masks = with_ap(nothing, 3 / 32)(Round.of(model, before), 3 / 32)
    assert bool(masks["0.weight"].all()) and int((~masks["2.weight"]).sum()) == 3 and not masks["2.weight"][0, 0]
    assert_raises(BadValue, lambda: with_ap(nothing, 17 / 32, "any")(Round.of(model, before), 17 / 32), "16 of them")


@pytest.mark.parametrize("shortfall", ["error", "host"])
def test_nothing_has_moved(shortfall) -> None:
    round = by_hand([-1.0, -2.0, 3.0], [-1.0, -2.0, 3.0])
    assert_raises(
        BadValue, lambda: with_ap(nothing, 1 / 3, shortfall=shortfall)(round, 1 / 3),
        "weight has moved since the round began", "train first", "begin_round()",
    )  # fmt: skip
    pruned = by_hand([-1.0, 7.0, 3.0], [-1.0, 0.0, 3.0], dead=(1,))  # what does not live may move as it likes
    assert_raises(BadValue, lambda: with_ap(nothing, 0.5)(pruned, 0.5), "weight has moved")
    assert with_ap(magnitude, 0.0)(round, 1 / 3).alive == 2  # AP is not asked
    assert cut_places(round, with_ap(nothing, 1 / 3, by="magnitude")(round, 1 / 3)) == [0]
