"""Data: image sets (digits, CIFAR, folders and tar files of images, timm's), and batches for models."""

from recipes.data.augment import DEVIATION, MEAN, crop_and_flip, cutout, normalise
from recipes.data.builtin import cifar10, digits, shared_folder
from recipes.data.dataset import Data
from recipes.data.feed import Feed, MemoryFeed
from recipes.data.images import ImageSet, Pictures
from recipes.data.opening import open_data
from recipes.data.preprocessing import Preprocessing
from recipes.data.tar import read_tar

__all__ = [
    "DEVIATION",
    "MEAN",
    "Data",
    "Feed",
    "ImageSet",
    "MemoryFeed",
    "Pictures",
    "Preprocessing",
    "cifar10",
    "crop_and_flip",
    "cutout",
    "digits",
    "normalise",
    "open_data",
    "read_tar",
    "shared_folder",
]
