"""Images and their labels."""

import pytest
import torch

from recipes.data import Pictures
from recipes.data.images import sample
from surgery.errors import BadFile, BadValue
from tests.asserts import assert_raises


def test_images_and_labels_must_belong_together() -> None:
    with pytest.raises(BadFile, match="do not match"):
        Pictures(torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.int64))


def test_a_sample_is_the_same_every_time_and_grows() -> None:
    assert sample(50, None) == list(range(50))
    few, more = sample(50, 10), sample(50, 50)
    assert few == sample(50, 10) == more[:10] and sorted(more) == list(range(50)) != more
    assert_raises(BadValue, lambda: sample(50, 51), "fewer images", "51", "50")
