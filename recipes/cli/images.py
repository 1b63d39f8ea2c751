"""Images: the test images that commands measure a model on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.data.dataset import Data
    from recipes.models.names import ModelName


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data set, and where it is."""
    parser.add_argument(
        "--data", required=True, metavar="NAME|DIR",
        help="its test images: digits, cifar10, cifar100, a folder with train/CLASS/*, or a name of timm's",
    )  # fmt: skip
    parser.add_argument("--data-dir", metavar="DIR", help="where the data is, for names")


def opened(options: argparse.Namespace, named: ModelName, count: int) -> Data:
    """The data of the flags that `add_data` added, with `count` test images, prepared as the model expects."""
    from recipes.data.opening import open_data
    from recipes.models.build import input_size
    from recipes.models.preprocessing import preprocessing_of

    return open_data(
        options.data, data_dir=options.data_dir, size=input_size(named), preprocessing=preprocessing_of(named),
        val_num_samples=count,
    )  # fmt: skip
