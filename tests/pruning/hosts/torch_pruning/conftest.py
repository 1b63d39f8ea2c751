"""The network that the tests of this folder prune."""

import pytest
import torch

from tests.pruning.hosts.torch_pruning.marked_net import Net


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()
