"""From the ``MVIT.*`` settings of facebookresearch/mvit and SlowFast to a row of stvit and what differs from it.

Their files list every block's strides, kernels and factors; a row says the same by stages. What no row can say is
refused, so that no file builds another network than it built there.
"""

from __future__ import annotations

from collections.abc import Mapping

from stvit.backbones.mvit import MViTSpec
from stvit.config.checks import Refuse
from stvit.registry import list_models, model_spec

Axes = tuple[int, ...]

# What a row may differ in and still be the named network: its classes, its sizes, and what only training knows.
FREE_FIELDS = frozenset({"num_classes", "input_size", "drop_path", "head_dropout"})

# Settings that choose what stvit's network does not have, with the value that chooses what it has.
FIXED: dict[str, tuple[object, str]] = {
    "MVIT.DROPOUT_RATE": (0.0, "there is no dropout inside the network; MODEL.DROPOUT_RATE is that of the classifier"),
    "MVIT.LAYER_SCALE_INIT_VALUE": (0.0, "there is no layer scale"),
    "MVIT.MODE": ("conv", "queries, keys and values are pooled by convolutions"),
    "MVIT.NORM": ("layernorm", "the norms are layer norms"),
    "MVIT.NORM_STEM": (False, "there is no norm after the patch embedding"),
    "MVIT.POOL_FIRST": (False, "pooling comes after the projection to queries, keys and values"),
    "MVIT.REV.ENABLE": (False, "there are no reversible networks"),
    "MVIT.SEPARATE_QKV": (False, "queries, keys and values have one projection"),
    "MVIT.USE_FIXED_SINCOS_POS": (False, "positions are learned"),
}


def mvit_spec_from_keys(values: Mapping[str, object], refuse: Refuse) -> tuple[str | None, dict[str, object]]:
    """The name of the row that the settings describe, or None, and the fields that differ from it, or all.

    Args:
        values: every ``MVIT.*`` setting with MODEL.DROPOUT_RATE, MODEL.NUM_CLASSES, DATA.TRAIN_CROP_SIZE and
            DATA.NUM_FRAMES, of the types of their defaults.
        refuse: raises for a setting, with what it must be.

    Raises:
        UserError: through ``refuse``, for a network that stvit does not have.
    """
    fields = _fields(values, refuse)
    for name, row in _rows().items():
        if not _difference(row, fields, free=False) and len(row.input_size) == len(_tuple(fields["input_size"])):
            return name, _difference(row, fields, free=True)
    return None, fields


def nearest_row(fields: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """The row nearest to these fields, for grids of as many axes, and those that make it this network."""
    axes = len(_tuple(fields["input_size"]))
    rows = {name: row for name, row in _rows().items() if len(row.input_size) == axes}
    name = min(rows, key=lambda name: len(_difference(rows[name], fields, free=False)))
    return name, _difference(rows[name], fields, free=True)


def _rows() -> dict[str, MViTSpec]:
    specs = {name: model_spec(name) for name in list_models("mvit*")}
    return {name: spec for name, spec in specs.items() if isinstance(spec, MViTSpec)}


def _difference(row: MViTSpec, fields: Mapping[str, object], free: bool) -> dict[str, object]:
    """What of the fields the row has otherwise, with those in which the named network may differ or without."""
    return {k: v for k, v in fields.items() if getattr(row, k) != v and (free or k not in FREE_FIELDS)}


def _tuple(value: object) -> tuple[object, ...]:
    assert isinstance(value, tuple)
    return value


def _fields(values: Mapping[str, object], refuse: Refuse) -> dict[str, object]:
    """Every field of the row."""
    for key, (only, wanted) in FIXED.items():
        if values[key] != only:
            refuse(key, wanted)
    ndim = 2 if values["MVIT.PATCH_2D"] else 3
    crop, frames = values["DATA.TRAIN_CROP_SIZE"], values["DATA.NUM_FRAMES"]
    return {
        **_stages(values, ndim, refuse),
        **_patches(values, ndim, refuse),
        **_positions(values, ndim, refuse),
        "input_size": (crop, crop) if ndim == 2 else (frames, crop, crop),
        "in_channels": 3,
        "num_classes": values["MODEL.NUM_CLASSES"],
        "width": values["MVIT.EMBED_DIM"],
        "heads": values["MVIT.NUM_HEADS"],
        "mlp_ratio": values["MVIT.MLP_RATIO"],
        "widen_in_attention": values["MVIT.DIM_MUL_IN_ATT"],
        "class_token": values["MVIT.CLS_EMBED_ON"],
        "balance_class_token": False,
        "head_pooling": _head_pooling(values),
        "residual_pooling": values["MVIT.RESIDUAL_POOLING"],
        "qkv_bias": values["MVIT.QKV_BIAS"],
        "drop_path": values["MVIT.DROPPATH_RATE"],
        "head_dropout": values["MODEL.DROPOUT_RATE"],
    }


def _head_pooling(values: Mapping[str, object]) -> str:
    if values["MVIT.USE_MEAN_POOLING"]:
        return "mean_then_norm"
    return "class_token" if values["MVIT.CLS_EMBED_ON"] else "mean"


def _patches(values: Mapping[str, object], ndim: int, refuse: Refuse) -> dict[str, object]:
    kernel, stride, padding = (
        _axes(f"MVIT.PATCH_{name}", values[f"MVIT.PATCH_{name}"], ndim, refuse)
        for name in ("KERNEL", "STRIDE", "PADDING")
    )
    if padding != tuple(k // 2 for k in kernel):
        refuse("MVIT.PATCH_PADDING", f"it is half of MVIT.PATCH_KERNEL {list(kernel)}, rounded down")
    return {"patch_kernel": kernel, "patch_stride": stride}


def _positions(values: Mapping[str, object], ndim: int, refuse: Refuse) -> dict[str, object]:
    spatial, temporal = values["MVIT.REL_POS_SPATIAL"], values["MVIT.REL_POS_TEMPORAL"]
    if ndim == 2 and temporal:
        refuse("MVIT.REL_POS_TEMPORAL", "images have no time")
    if ndim == 3 and temporal != spatial:
        refuse("MVIT.REL_POS_TEMPORAL", f"relative positions are on all axes: MVIT.REL_POS_SPATIAL is {spatial}")
    if values["MVIT.USE_ABS_POS"] and not (ndim == 3 and values["MVIT.SEP_POS_EMBED"]):
        refuse(
            "MVIT.USE_ABS_POS",
            "absolute positions are those of clips, one table for space and one for time (MVIT.SEP_POS_EMBED True)",
        )
    return {"relative_position": spatial, "absolute_position": values["MVIT.USE_ABS_POS"]}


def _stages(values: Mapping[str, object], ndim: int, refuse: Refuse) -> dict[str, object]:
    """Depths, strides and kernel of the pooling."""
    depth = values["MVIT.DEPTH"]
    assert isinstance(depth, int)
    if depth < 1:
        refuse("MVIT.DEPTH", "a network has at least one block")
    kernel = values["MVIT.POOL_KVQ_KERNEL"]
    if kernel is None:
        refuse("MVIT.POOL_KVQ_KERNEL", "a kernel for all blocks is needed, such as [3, 3] or [3, 3, 3]")
    queries = _by_block("MVIT.POOL_Q_STRIDE", values, depth, ndim, refuse)
    unstrided = (1,) * ndim
    starts = [block for block, stride in queries.items() if stride != unstrided]
    strides = {queries[block] for block in starts}
    if len(strides) > 1 or 0 in starts:
        refuse("MVIT.POOL_Q_STRIDE", "every stage but the first starts with the same stride")
    if len(queries) not in (depth, len(starts)):
        refuse("MVIT.POOL_Q_STRIDE", f"it lists all {depth} blocks, or those alone whose stride is not 1")
    for key in ("MVIT.DIM_MUL", "MVIT.HEAD_MUL"):
        if _factors(key, values, refuse) != dict.fromkeys(starts, 2.0):
            refuse(key, f"it doubles at the blocks whose MVIT.POOL_Q_STRIDE is not 1, {starts}, and nowhere else")
    query_stride = strides.pop() if strides else (*unstrided[:-2], 2, 2)
    ends = [*starts, depth]
    return {
        "depths": tuple(end - start for start, end in zip([0, *starts], ends, strict=True)),
        "pool_kernel": _axes("MVIT.POOL_KVQ_KERNEL", kernel, ndim, refuse),
        "q_stride": query_stride,
        "kv_stride": _key_stride(values, depth, ndim, queries, refuse),
        "pool_unstrided_query": len(queries) == depth,
    }


def _key_stride(
    values: Mapping[str, object], depth: int, ndim: int, queries: Mapping[int, Axes], refuse: Refuse
) -> Axes:
    """The first block's stride of keys and values; that of the others must follow from it."""
    adaptive = values["MVIT.POOL_KV_STRIDE_ADAPTIVE"]
    if adaptive is not None:
        return _axes("MVIT.POOL_KV_STRIDE_ADAPTIVE", adaptive, ndim, refuse)
    if not values["MVIT.POOL_KV_STRIDE"]:
        refuse("MVIT.POOL_KV_STRIDE_ADAPTIVE", "keys and values are pooled: it or MVIT.POOL_KV_STRIDE is needed")
    listed = _by_block("MVIT.POOL_KV_STRIDE", values, depth, ndim, refuse)
    expected = first = listed.get(0, (1,) * ndim)
    for block in range(depth):
        query = queries.get(block, (1,) * ndim)
        expected = tuple(max(k // q, 1) for k, q in zip(expected, query, strict=True))
        if listed.get(block) != expected:
            found = f"is {list(listed[block])}" if block in listed else "is not listed"
            refuse(
                "MVIT.POOL_KV_STRIDE",
                f"block {block} {found}: it is the stride of block 0 over those of the queries up to there, "
                f"{list(expected)}",
            )
    return first


def _by_block(key: str, values: Mapping[str, object], depth: int, ndim: int, refuse: Refuse) -> dict[int, Axes]:
    """``[[block, stride ...], ...]`` as strides by block, in order."""
    rows: dict[int, Axes] = {}
    listed = values[key]
    for row in listed if isinstance(listed, list) else []:
        if not isinstance(row, list) or not row or type(row[0]) is not int or not 0 <= row[0] < depth:
            refuse(key, f"each entry is a block, from 0 to {depth - 1}, and its strides")
        rows[row[0]] = _axes(key, row[1:], ndim, refuse)
    return dict(sorted(rows.items()))


def _factors(key: str, values: Mapping[str, object], refuse: Refuse) -> dict[int, float]:
    """``[[block, factor], ...]`` by block, in order, without factors of 1."""
    factors: dict[int, float] = {}
    listed = values[key]
    for row in listed if isinstance(listed, list) else []:
        if not isinstance(row, list) or len(row) != 2 or not all(type(v) in (int, float) for v in row):
            refuse(key, "each entry is a block and its factor")
        factors[row[0]] = float(row[1])
    return {block: factor for block, factor in sorted(factors.items()) if factor != 1}


def _axes(key: str, value: object, ndim: int, refuse: Refuse) -> Axes:
    """A number for each axis; images may have a 1 for time before."""
    numbers = value if isinstance(value, list) else []
    if ndim == 2 and len(numbers) == 3 and numbers[0] == (0 if key == "MVIT.PATCH_PADDING" else 1):
        numbers = numbers[1:]
    if len(numbers) != ndim or not all(type(n) is int and n >= 0 for n in numbers):
        kind = "images: 2 numbers, or 3 of which the first, for time, is 1" if ndim == 2 else "clips: 3 numbers"
        refuse(key, f"the network is one of {kind}")
    return tuple(numbers)
