"""Images on the command line: as many as are asked for, prepared as the model expects them."""

from __future__ import annotations

import argparse

import pytest

from recipes.cli.images import add_data, opened
from recipes.models.names import resolve


@pytest.mark.parametrize(("model", "size"), [("timm/vit_tiny_patch16_384", 384), ("cifar/resnet20", 32)])
def test_the_data_has_the_size_of_the_model(model: str, size: int) -> None:
    parser = argparse.ArgumentParser()
    add_data(parser)
    data = opened(parser.parse_args(["--data", "digits"]), resolve(model), 7)
    assert data.counts[1] == 7 and data.size == size
