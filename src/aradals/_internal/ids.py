"""The ids of examples, of which several parts of a result may contain the same."""

from __future__ import annotations

import torch
from torch import Tensor


def first_of_each(ids: Tensor) -> Tensor:
    """Find the row where each id is first, in the order of the ids.

    >>> first_of_each(torch.tensor([7, 3, 7, 0]))
    tensor([3, 1, 0])
    """
    ordered, rows = ids.sort(stable=True)
    is_first = torch.ones_like(ids, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return rows[is_first]
