"""Image sets: the digits, CIFAR, folders and tar files of pictures, timm's; and the batches that models are fed."""

from recipes.data.augment import DEVIATION, MEAN, crop_and_flip, cutout, normalise
from recipes.data.feed import Feed, MemoryFeed
from recipes.data.known import cifar10, digits, shared_folder
from recipes.data.opened import Data
from recipes.data.pictures import ImageSet, Pictures
from recipes.data.preprocessing import Preprocessing
from recipes.data.sets import open_data
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
