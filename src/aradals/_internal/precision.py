"""State that keeps its precision in modules that are cast to another one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def only_moving(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a function that moves tensors as ``apply`` does, and does not cast them, for ``nn.Module._apply``.

    Tables and sums in float64 lose their meaning in half precision: float16 has no number above 65,504, and sums of
    ones stop at 2,048. A device without float64 gets float32.
    """

    def move(tensor: Tensor) -> Tensor:
        device = apply(torch.empty(0, device=tensor.device)).device
        lacks_double = device.type == "mps" and tensor.dtype == torch.float64
        return tensor.to(device, torch.float32 if lacks_double else tensor.dtype)

    return move
