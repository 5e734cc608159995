"""Arrays that a network needs on its device at every pass, copied there once."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import torch
from torch import Tensor

_MADE: dict[tuple[Hashable, torch.device], Tensor] = {}


def constant(name: Hashable, device: torch.device, make: Callable[[], np.ndarray]) -> Tensor:
    """The array of a name on a device, made when it is first asked for.

    Later calls copy nothing from the host, which a GPU would have to be waited for and no CUDA graph can hold. Call it
    from functions under ``torch.compiler.assume_constant_result``.
    """
    found = _MADE.get((name, device))
    if found is None:
        with torch.inference_mode(False):  # else a training step that needs the same could not save it
            found = torch.from_numpy(make()).to(device)
        if type(found) is Tensor:  # not a tracer's stand-in, which must not outlive its tracer
            _MADE[name, device] = found
    return found
