"""Small network: an MLP for images of any shape."""

import torch

import surgery
from recipes.activation_search.small_network import mlp


def test_it_has_two_nonlinearities() -> None:
    model, images = mlp(torch.Size((2, 3, 8, 8)), 10), torch.rand(2, 3, 8, 8)
    assert model(images).shape == (2, 10)
    assert [(site.activation, site.channels) for site in surgery.find_sites(model, images)] == [("relu", 64)] * 2
