"""Revive and recut: what a dead unit gets, and what the cut spares."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import pruning
from benchmarks.studies.revival import revive, revive_and_cut
from pruning.masks.masks import Masks

DEAD, SUM = 1, 2
BATCHES = [torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


class Block(nn.Module):
    """A stem and a residual block; a unit of its first convolution is dead, and one of its sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 4, 3, padding=2)
        self.norm = nn.BatchNorm2d(5)
        with torch.no_grad():
            self.norm.bias[DEAD] = -100
            self.conv2.bias[SUM] = -100  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return (x + self.conv2(self.norm(self.conv1(x)).relu())).relu()


def block() -> Block:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Block().eval()


def test_a_dead_unit_begins_anew_and_the_network_computes_what_it_did() -> None:
    model = block()
    before, outputs = copy.deepcopy(model), [model(x) for x in BATCHES]
    dead = pruning.dead_units(model, BATCHES)
    assert dead["conv1.weight"].nonzero().flatten().tolist() == [DEAD]
    assert dead["conv2.weight"].nonzero().flatten().tolist() == [SUM] and not bool(dead["stem.weight"].any())
    chosen = revive(model, dead, BATCHES[0][:2], seed=0)
    incoming, outgoing = torch.zeros(5, 4, 3, 3, dtype=torch.bool), torch.zeros(4, 5, 3, 3, dtype=torch.bool)
    incoming[DEAD], outgoing[:, DEAD] = True, True
    assert torch.equal(chosen["conv1.weight"], incoming) and torch.equal(chosen["conv2.weight"], outgoing)
    assert not bool(chosen["stem.weight"].any()), "the stem writes into the dead sum, too, and is not dead"
    for name in ("conv1", "conv2"):
        now, then = (net.get_submodule(name).weight[~chosen[f"{name}.weight"]] for net in (model, before))
        assert torch.equal(now, then)
    assert bool((model.conv1.weight[DEAD] != before.conv1.weight[DEAD]).all())
    assert model.norm.weight[DEAD].item() == 1 and model.norm.bias[DEAD].item() == 0
    for x, output in zip(BATCHES, outputs, strict=True):
        torch.testing.assert_close(model(x), output)  # the dead unit was silent, and the new one is not heard yet
    assert pruning.dead_units(model, BATCHES)["conv1.weight"].sum() == 0


def test_the_cut_spares_what_begins_anew_and_has_the_density_of_a_cut_without_it() -> None:
    model = block()
    pruned = Masks.full(model)
    pruned["conv1.weight"][DEAD, 0] = False
    pruned["conv1.weight"][0, 0] = False
    pruned.lay_over(model)
    masks = revive_and_cut(model, pruned, 0.5, BATCHES, seed=0)
    assert masks.alive == pruned.alive - pruned.alive // 2
    assert bool(masks["conv1.weight"][DEAD].all()), "grown back"
    assert not bool(masks["conv1.weight"][0, 0].any()), "other units stay pruned"
    assert bool(masks["conv2.weight"][:, DEAD].all())
    sizes = {name: weight.detach().abs() for name, weight in pruning.prunable(model).items()}
    others = {name: pruned[name].clone() for name in pruned}
    others["conv1.weight"][DEAD], others["conv2.weight"][:, DEAD] = False, False
    kept = max(float(sizes[name][others[name] & ~masks[name]].max()) for name in ("conv1.weight", "conv2.weight"))
    assert all(kept <= float(sizes[name][others[name] & masks[name]].min()) for name in masks), "the smallest go"
