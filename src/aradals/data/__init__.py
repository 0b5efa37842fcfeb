"""Data: labelled examples with ids, where they come from, and what is done to them."""

from aradals.data.augment import AUGMENTATIONS, random_flip_crop
from aradals.data.corruptions import CORRUPTIONS, corrupt
from aradals.data.examples import Examples, as_batch, overlap
from aradals.data.sources import list_splits, load_data
from aradals.data.splits import Splits, make_splits, splits_hash

__all__ = [
    "AUGMENTATIONS",
    "CORRUPTIONS",
    "Examples",
    "Splits",
    "as_batch",
    "corrupt",
    "list_splits",
    "load_data",
    "make_splits",
    "overlap",
    "random_flip_crop",
    "splits_hash",
]
