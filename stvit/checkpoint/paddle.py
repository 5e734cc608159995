"""Files of Paddle's: what ``paddle.save`` writes for the weights of a network (.pdparams), without Paddle.

They are plain pickles, which :mod:`stvit.checkpoint.restricted` reads without running anything of them: a dict of numpy
arrays by name. Newer versions put a pair of Paddle's own name and the array in an array's place, where the dict is not
a network's state dict; under pickle protocols 2 and 3, arrays of a gigabyte and more are cut into slices. bfloat16 is
stored as uint16, a type that Paddle's tensors do not have.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from os import PathLike

import torch
from torch import Tensor

from stvit.checkpoint.save import save_bytes

NAME_TABLE = "StructuredToParameterName@@"  # beside the weights of a network: their names -> Paddle's own
SLICED = "UnpackBigParamInfor@@"  # name -> {"OriginShape": shape, "slices": names of flat parts}
PROTOCOL = 4  # Paddle's default, and the highest that it reads
# What else Paddle writes, by the end of its name, ready to follow the file's.
OTHER_FILES = {
    ".pdopt": "holds the state of Paddle's optimizer, no weights: take the .pdparams file beside it",
    ".pdmodel": "is a program of Paddle's, which only Paddle can run: take the .pdparams file of the training",
    ".pdiparams": "is in Paddle's form for inference, without names: take the .pdparams file of the training",
}


def assembled(content: object) -> object:
    """The content of a plain pickle, its arrays as tensors already: where Paddle wrote it, with whole named tensors.

    Raises:
        pickle.UnpicklingError: slices that do not make up what the file says.
    """
    if not isinstance(content, dict) or not _is_paddle(content):
        return content
    weights = {key: _tensor(value) for key, value in content.items() if key != SLICED}
    table = content.get(SLICED, {})
    if not isinstance(table, dict):
        raise pickle.UnpicklingError("a table of slices that is no dict")
    used: set[int] = set()
    for key, entry in table.items():
        weights[key] = _joined(key, entry, weights, used)
    return weights


def save_paddle(path: str | PathLike[str], weights: Mapping[str, Tensor]) -> None:
    """Write tensors as a .pdparams file for ``paddle.load``, with :func:`stvit.checkpoint.save.save_checkpoint`'s care.

    The names and layouts are to be Paddle's, as :func:`stvit.checkpoint.convert` gives them.
    """
    # By the table, readers tell the weights of a network: Paddle makes tensors of what it names, we bfloat16 of uint16.
    arrays: dict[str, object] = {NAME_TABLE: {key: key for key in weights}}
    for key, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        arrays[key] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    save_bytes(path, pickle.dumps(arrays, protocol=PROTOCOL))


def _is_paddle(content: Mapping[object, object]) -> bool:
    return NAME_TABLE in content or SLICED in content or any(_is_named(value) for value in content.values())


def _is_named(value: object) -> bool:
    match value:
        case (str(), Tensor()):
            return True
    return False


def _tensor(value: object) -> object:
    if _is_named(value):
        value = value[1]  # type: ignore[index]
    return value.view(torch.bfloat16) if isinstance(value, Tensor) and value.dtype == torch.uint16 else value


def _joined(key: object, entry: object, weights: dict[object, object], used: set[int]) -> Tensor:
    """A tensor from its slices, which are taken out of ``weights``; each may be used once, so that none multiplies."""
    match entry:
        case {"OriginShape": tuple() | list() as shape, "slices": list() as names}:
            pass
        case _:
            raise pickle.UnpicklingError(f"{key} has an unreadable table of slices")
    parts = [weights.pop(name, None) if isinstance(name, str) else None for name in names]
    if not all(type(n) is int and n >= 0 for n in shape) or not parts:
        raise pickle.UnpicklingError(f"{key} has an unreadable shape or no slices")
    tensors = [part for part in parts if isinstance(part, Tensor) and part.ndim == 1]
    if len(tensors) < len(parts) or len({part.dtype for part in tensors}) > 1:
        raise pickle.UnpicklingError(f"{key} lacks slices, or they are of several types")
    if len({id(part) for part in tensors} - used) < len(tensors) or sum(map(len, tensors)) != math.prod(shape):
        raise pickle.UnpicklingError(f"the slices of {key} do not make up its shape {tuple(shape)}")
    used.update(id(part) for part in tensors)
    return torch.cat(tensors).reshape(tuple(shape))
