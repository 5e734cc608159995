"""Finding the weights in a checkpoint: the dicts that training programs wrap around them, the prefixes before names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stvit.checkpoint.inert import Placeholder
from stvit.errors import UserError

WRAPPERS = ("state_dict", "model_state", "model", "params")  # timm, OpenSTL, Lightning; SlowFast; torchvision; BasicSR
EMA_WRAPPERS = ("ema", "state_dict_ema", "model_ema", "params_ema")  # ours; timm; torchvision; BasicSR
PREFIXES = ("module.", "model.")  # DistributedDataParallel; Lightning
COMPILED = "_orig_mod."  # torch.compile, before the name of whatever was compiled
_DEPTH = 4  # wrappers inside wrappers; more is a file that contains itself


def running_mean(checkpoint: Mapping[str, object]) -> str | None:
    """The entry that holds the exponential moving average of the weights, if there is one."""
    return next((k for k in EMA_WRAPPERS if isinstance(mean := checkpoint.get(k), Mapping) and mean), None)


def find_weights(
    checkpoint: Mapping[str, object], name: str, *, ema: bool = False
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in a checkpoint, under whatever wrapper.

    Args:
        checkpoint: a bare state dict or a dict around one.
        name: the checkpoint's, for messages.
        ema: take the exponential moving average of the weights instead.

    Returns:
        The tensors by name, and the names that stand beside them without being tensors.

    Raises:
        UserError: no weights, no moving average, or weights that only the file's own code could rebuild.
    """
    inner: object = checkpoint
    if ema:
        if (key := running_mean(checkpoint)) is None:
            raise UserError(f"{name} holds no moving average of its weights; its entries are {_listed(checkpoint)}")
        inner = checkpoint[key]
    for _ in range(_DEPTH):
        if not isinstance(inner, Mapping):
            break
        wrapped = [inner[k] for k in WRAPPERS if isinstance(inner.get(k), Mapping | Placeholder)]
        if not wrapped:
            return _tensors(inner, name)
        inner = next((w for w in wrapped if isinstance(w, Mapping) and w), wrapped[0])
    if isinstance(inner, Placeholder):
        raise UserError(
            f"the weights of {name} are a whole pickled {inner.name}, which only its own code can rebuild: "
            "save model.state_dict() instead, in a program that has its classes"
        )
    raise UserError(f"{name} holds no weights; its entries are {_listed(checkpoint)}")


def _tensors(entries: Mapping[str, object], name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    weights = {k: v.detach() for k, v in entries.items() if isinstance(k, str) and isinstance(v, Tensor)}
    foreign = {k: v for k, v in entries.items() if isinstance(v, Placeholder)}
    if foreign and (weights or len(foreign) == len(entries)):
        key, value = next(iter(foreign.items()))
        raise UserError(f"{name} stores {key} as a {value.name}, which only its own code can rebuild: store tensors")
    if not weights:
        raise UserError(f"{name} holds no weights; its entries are {_listed(entries)}")
    for key, tensor in weights.items():
        if type(tensor) is not Tensor or tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta:
            raise UserError(f"{name} stores {key} as a quantised, sparse or meta tensor: store dense tensors")
    return weights, tuple(str(k) for k in entries if k not in weights)


def without_prefixes(weights: Mapping[str, Tensor], *, lightning: bool) -> Iterator[dict[str, Tensor]]:
    """The weights as they are, then with ever more of the prefixes that wrapping modules put before every name.

    Args:
        weights: a state dict.
        lightning: the file is Lightning's: names without ``model.`` belong to losses and metrics and are left out.
    """
    current = dict(weights)
    yield current
    while current:
        if any(COMPILED in f".{key}" for key in current):
            current = {key.replace(COMPILED, ""): value for key, value in current.items()}
        elif prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in current)), None):
            current = {key.removeprefix(prefix): value for key, value in current.items()}
        elif lightning and any(key.startswith("model.") for key in current):
            current = {key: value for key, value in current.items() if key.startswith("model.")}
            lightning = False
        else:
            return
        yield current


def _listed(entries: Mapping[str, object], limit: int = 8) -> str:
    names = [str(key) for key in entries]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"
