"""The loop of the recorded results: it learns, is reproducible, and follows its learning rate."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain_loop import accuracy, learning_rate_share, train
from recipes.data import Pictures, crop_and_flip


def stripes(count: int = 96) -> Pictures:
    """Images whose class is the direction of their stripes."""
    labels = torch.arange(count) % 2
    row = (torch.arange(8) % 2).float().expand(8, 8)
    noise = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Pictures(torch.stack([row if label else row.T for label in labels]).unsqueeze(1) + 0.5 * noise, labels)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))


def test_it_learns_and_says_how_far_it_is() -> None:
    model, epochs = network(), list[tuple[int, float]]()
    train(model, stripes(), 3, batch_size=16, after_epoch=lambda epoch, loss: epochs.append((epoch, loss)))
    assert accuracy(model, stripes()) == 1.0
    assert [epoch for epoch, _ in epochs] == [1, 2, 3]
    assert epochs[-1][1] < 0.5 * epochs[0][1]
    assert not model.training


def test_the_seed_decides() -> None:
    def trained(seed: int) -> Tensor:
        model = network()
        train(model, stripes(), 1, batch_size=16, seed=seed, augment=crop_and_flip, smoothing=0.1)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_images_are_augmented_then_prepared() -> None:
    seen = []

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(("augment", images.dtype))
        return images

    def prepare(images: Tensor) -> Tensor:
        seen.append(("prepare", images.dtype))
        return images.float() / 255

    pictures = Pictures((stripes().images.clamp(0, 1) * 255).to(torch.uint8), stripes().labels)
    train(network(), pictures, 1, batch_size=96, augment=augment, prepare=prepare)
    assert seen == [("augment", torch.uint8), ("prepare", torch.uint8)]


def test_every_batch_is_full() -> None:
    sizes = []
    train(network(), stripes(), 1, batch_size=36, prepare=lambda images: sizes.append(len(images)) or images)  # type: ignore[func-returns-value]
    assert sizes == [36, 36]
    train(network(), stripes(20), 1, batch_size=36, prepare=lambda images: sizes.append(len(images)) or images)  # type: ignore[func-returns-value]
    assert sizes == [36, 36, 20]


def test_the_learning_rate_rises_and_falls() -> None:
    shares = [learning_rate_share(step, 100, 0.1) for step in range(101)]
    assert shares[:10] == pytest.approx([step / 11 for step in range(1, 11)])
    assert max(shares) == shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[55] == pytest.approx(0.5) and shares[100] == pytest.approx(0.0)


def test_accuracy_counts_and_leaves_the_mode_alone() -> None:
    head = nn.Linear(64, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 1.0]))  # always the second class
    model = nn.Sequential(nn.Flatten(), head).train()
    assert accuracy(model, stripes(30), batch_size=7) == 0.5
    assert model.training
