"""Measurements before and after a run, against counts by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from pruning.masks.masks import Masks
from recipes.runs import evaluate as module
from recipes.runs.evaluate import images_per_second, measure
from surgery import BadValue, CannotLook
from tests.asserts import assert_raises, assert_untouched
from tests.pruning.tiny import tiny_net


def batches(count: int = 3, size: int = 4, side: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(size, 2, side, side, generator=generator), torch.arange(size) % 3) for _ in range(count)]


def right(model: nn.Module, some: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        found = [model(images).argmax(1) == labels for images, labels in some]
    return float(torch.cat(found).double().mean())


def test_the_figures_of_a_tiny_net_are_those_counted_by_hand() -> None:
    model, some = tiny_net().eval(), batches()
    found = measure(model, some)
    # a convolution 2 -> 4 of 3 x 3 at 4 x 4 places, and a linear layer 64 -> 3
    assert found.flops == 2 * (4 * 2 * 9 * 16) + 2 * (64 * 3)
    assert found.parameters == (4 * 2 * 9 + 4) + 2 * 4 + (64 * 3 + 3)
    assert found.accuracy == right(model, some)
    assert found.living == 1.0 and found.images_s > 0


def test_flops_of_attention_are_counted_whatever_computes_it() -> None:
    wide, tokens = 32, 17
    model = timm.models.VisionTransformer(
        img_size=16, patch_size=4, in_chans=2, num_classes=3, embed_dim=wide, depth=1, num_heads=2
    )
    layer = tokens * (3 * wide * wide + wide * wide + 8 * wide * wide) + 2 * tokens * tokens * wide
    assert measure(model, batches(1, side=16)).flops == 2 * (16 * (2 * 16) * wide + layer + wide * 3)
    torch_own = nn.TransformerEncoderLayer(wide, 2, 4 * wide, batch_first=True)
    whole = nn.Sequential(nn.Flatten(2), nn.Linear(36, wide), torch_own, nn.Flatten(), nn.Linear(2 * wide, 3))
    layer = 2 * (12 * wide * wide) + 2 * 2 * 2 * wide
    assert measure(whole, batches(1)).flops == 2 * (2 * 36 * wide + layer + 2 * wide * 3)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_living_share_is_that_of_the_masks_and_zero_is_not_pruned() -> None:
    model = tiny_net()
    with torch.no_grad():
        model[0].weight[0] = 0  # 18 of 72 + 192
    assert measure(model, batches()).living == 1.0
    assert measure(model, batches(), Masks.of(model)).living == 246 / 264
    masks = Masks.full(model)
    masks = Masks(dict(masks) | {"4.weight": torch.zeros_like(masks["4.weight"])})
    assert measure(model, batches(), masks).living == 72 / 264


def test_dead_channels_are_told_apart() -> None:
    model = tiny_net()
    with torch.no_grad():
        model[0].weight[0] = 0  # no unpruned weight
        model[1].bias[0] = 1.0  # though it speaks
        model[1].bias[1:3] = -100.0  # silent
    found = measure(model, batches(), Masks.of(model))
    assert (found.dead_static, found.dead_dynamic) == (0.25, 0.5)
    assert measure(model, batches()).dead_static == 0, "without masks, zeros are not pruned"


def test_what_cannot_be_judged_is_left_out() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    assert (measure(linear, batches()).dead_dynamic, measure(linear, batches()).dead_static) == (None, None)
    none = measure(nn.Sequential(nn.Flatten(), nn.ReLU()), batches())
    assert (none.living, none.parameters, none.flops) == (None, 0, 0)
    standardised = timm.layers.StdConv2d(2, 4, 3)  # a zero there is not a zero weight
    assert measure(nn.Sequential(standardised, nn.ReLU(), nn.Flatten()), batches()).living is None


def test_a_network_that_diverged_is_still_measured() -> None:
    model = tiny_net()
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    found = measure(model, batches())
    assert found.dead_dynamic is None and found.living == 1.0


def test_measuring_leaves_no_trace() -> None:
    model = tiny_net().train()
    model[2] = nn.ReLU(inplace=True)
    some = batches()
    kept = [images.clone() for images, _ in some]
    with assert_untouched(model):
        measure(model, some)
    assert all(torch.equal(images, tensor) for (images, _), tensor in zip(some, kept, strict=True))


def test_images_are_not_overwritten_by_a_model_that_does() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 3))
    some = batches(1)
    found = module._images_s(model, [images := some[0][0].clone()])
    assert found > 0 and torch.equal(images, some[0][0])


def test_few_batches_are_enough_for_all_but_the_accuracy() -> None:
    seen: list[int] = []

    class Batches:
        def __iter__(self):  # type: ignore[no-untyped-def]
            for number, batch in enumerate(batches(6)):
                seen.append(number)
                yield batch

    model = tiny_net().eval()
    assert measure(model, Batches(), few=2).accuracy == right(model, batches(6))
    assert seen.count(5) == 1 and seen.count(0) == 2


def test_speed_is_images_over_seconds_after_a_first_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    class Timed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            now[0] += 100.0 if len(calls) == 1 else 0.5  # the first one is slow
            return x

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    assert module._images_s(Timed(), [torch.ones(4, 1), torch.ones(2, 1)]) == 6.0
    assert calls == [4, 4, 2]


def test_what_cannot_be_measured_is_refused() -> None:
    model = tiny_net()
    assert_raises(CannotLook, lambda: measure(nn.DataParallel(model), batches()), "DataParallel")
    assert_raises(BadValue, lambda: measure(model, iter(batches())), "more than once")
    assert_raises(BadValue, lambda: measure(model, []), "No batches")


def test_speeds_are_measured_in_turns_and_the_fastest_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    models, order = [tiny_net().eval(), tiny_net().train()], list[int]()
    times = iter([9.0, 9.0, 2.0, 4.0, 1.0, 8.0])  # a round of warm-up, and two

    def seconds(model: nn.Module, images: list[Tensor]) -> float:
        assert not model.training and sum(map(len, images)) == 8
        order.append(models.index(model))
        return next(times)

    monkeypatch.setattr(module, "_seconds", seconds)
    assert images_per_second(models, batches(), few=2, rounds=2) == [8 / 1.0, 8 / 4.0]
    assert order == [0, 1, 0, 1, 0, 1] and models[1].training
