"""Data: labeled examples with ids, their sources, and changes to them."""

from aradals.corruptions import CORRUPTIONS, GROUPS, PRESETS, choose_preset, corrupt, corruption_names
from aradals.data.augment import AUGMENTATIONS, Augmentation, random_flip_crop, random_resized_crop
from aradals.data.augmix import augmix
from aradals.data.classes import match_classes
from aradals.data.convert import Data, as_examples
from aradals.data.examples import Examples, as_batch, overlap
from aradals.data.sources import (
    data_paths,
    files_digest,
    list_conditions,
    list_splits,
    load_column,
    load_condition,
    load_data,
    load_splits,
)
from aradals.data.splits import Splits, make_splits, splits_hash

__all__ = [
    "AUGMENTATIONS",
    "CORRUPTIONS",
    "GROUPS",
    "PRESETS",
    "Augmentation",
    "Data",
    "Examples",
    "Splits",
    "as_batch",
    "as_examples",
    "augmix",
    "choose_preset",
    "corrupt",
    "corruption_names",
    "data_paths",
    "files_digest",
    "list_conditions",
    "list_splits",
    "load_column",
    "load_condition",
    "load_data",
    "load_splits",
    "make_splits",
    "match_classes",
    "overlap",
    "random_flip_crop",
    "random_resized_crop",
    "splits_hash",
]
