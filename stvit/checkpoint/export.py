"""Weights for other libraries: in their layouts, and only where they compute the same with them.

Equal names and shapes are no promise of equal outputs. :func:`convert` therefore knows what each library computes, and
refuses with the reason where that differs; each layout's module says more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike

from torch import Tensor, nn

from stvit.backbones.mixformer import MixFormerSpec
from stvit.backbones.mixvit import MixViTSpec
from stvit.backbones.mpvit import MPViTSpec
from stvit.backbones.mvit import MViTSpec
from stvit.checkpoint.fit import model_title
from stvit.checkpoint.layouts import (
    mixformer,
    mixvit,
    mmaction2,
    mmpretrain,
    mpvit,
    mvit,
    openstl_mixvit,
    timm_mvit,
    torchvision_mvit,
)
from stvit.checkpoint.load import NATIVE, in_our_layout, open_checkpoint, unwrap_model
from stvit.checkpoint.recognise import KINDS, differing, registered_name, told_spec
from stvit.checkpoint.remedy import kind_of_network
from stvit.checkpoint.same_network import stated_spec
from stvit.checkpoint.unwrap import find_weights, running_mean
from stvit.errors import UserError, nearest
from stvit.registry import Spec, model_spec

# Fields of a row that change nothing that a trained network computes, or that every library lets its user choose.
_FREE = frozenset({"num_classes", "drop_path", "head_dropout"})
_MVIT_V1_B = MViTSpec(
    depths=(1, 2, 11, 2),
    input_size=(16, 224, 224),
    patch_kernel=(3, 7, 7),
    patch_stride=(2, 4, 4),
    pool_kernel=(3, 3, 3),
    q_stride=(1, 2, 2),
    kv_stride=(1, 8, 8),
    widen_in_attention=False,
    class_token=True,
    head_pooling="class_token",
    relative_position=False,
    absolute_position=True,
    residual_pooling=False,
    pool_unstrided_query=False,
)


def convert(
    state_dict: Mapping[str, object] | str | PathLike[str] | nn.Module,
    to: str,
    *,
    model: str | nn.Module | None = None,
    ema: bool | None = None,
    force: bool = False,
) -> dict[str, Tensor]:
    """Weights in another library's layout, from any layout that :func:`stvit.load_checkpoint` reads.

    Args:
        state_dict: a state dict, a checkpoint in memory, a file or an address; also a network with its weights, which
            is then ``model`` too.
        to: the target, one of :data:`TARGETS`: ``mvit`` (facebookresearch/mvit), ``slowfast``, ``torchvision``,
            ``timm``, ``mmpretrain``, ``mmaction2``, ``mixvit``, ``openstl-mixvit``, ``paddleclas``
            (Paddle's arrays), ``paddleclas-torch`` (PyTorch's), ``mpvit`` or ``stvit``.
        model: the network that the weights are of, or its registered name. Needed where neither the checkpoint nor
            its shapes tell: a changed pooling of the head or a changed stride.
        ema: which weights, as in :func:`stvit.load_checkpoint`.
        force: convert even if the target computes something else with these weights.

    Returns:
        The same tensors, renamed and where needed reshaped, without a wrapper (see :func:`wrapped`). Networks of
        another input size than 224x224 have to be built for it there, in timm by ``img_size=``.

    Raises:
        UserError: an unknown target, weights that its layout has no names for, weights of another network than
            ``model``, or (without ``force``) a target that cannot compute the same, with the reason.
    """
    if isinstance(state_dict, nn.Module):
        model = state_dict if model is None else model
        state_dict = unwrap_model(state_dict).state_dict()
    checkpoint, name = open_checkpoint(state_dict)
    ema = running_mean(checkpoint) is not None if ema is None else ema
    weights, _ = find_weights(checkpoint, name, ema=ema)
    ours = in_our_layout(weights, checkpoint, name, model if isinstance(model, nn.Module) else None).weights
    fitting = [known for known in TARGETS if TARGETS[known].holds(ours)]
    if to not in TARGETS:
        raise UserError(f"there is no layout {to!r}{nearest(to, fitting)}: choose from {', '.join(fitting)}")
    spec = _spec(ours, checkpoint, name, model)
    if to not in fitting:
        told = told_spec(ours)
        kind = (
            "no whole network that layout" if told is None else f"a {kind_of_network(told)}, which is not what layout"
        )
        raise UserError(f"{name} holds {kind} {to} is for: choose from {', '.join(fitting)}")
    target = TARGETS[to]
    if target.images_only and not force and len(getattr(spec, "input_size", ())) == 3:
        raise UserError(
            f"{name} cannot be used by {to}: it is for images, and {target.images_only} has no video networks; "
            f"layout {NATIVE} keeps them"
        )
    reasons = list(target.reasons(spec)) if spec is not None else []
    if reasons and not force:
        raise UserError(
            f"{name} cannot be used by {to}: {'; '.join(reasons)}; force=True (--force) converts the names all the same"
        )
    return target.write(ours)


def wrapped(weights: Mapping[str, Tensor], to: str) -> dict[str, object]:
    """What a file of the target's own kind holds: weights as :func:`convert` gives them, under its usual entries."""
    return TARGETS[to].wrap(dict(weights))


def _spec(
    weights: Mapping[str, Tensor], checkpoint: Mapping[str, object], name: str, model: str | nn.Module | None
) -> Spec | None:
    """The row of the network that weights are of: as told by the caller, the checkpoint, or the shapes."""
    told, row = told_spec(weights), registered_name(weights)
    known = getattr(unwrap_model(model), "spec", None) if isinstance(model, nn.Module) else None
    known = known or (stated_spec(checkpoint, name) if model is None else None)
    named = model if isinstance(model, str) else row
    spec = known or (model_spec(named) if named else told)
    if told is None or type(spec) is not type(told):
        return spec
    if fields := differing(spec, told):
        kind = row or "another network"
        title = model if isinstance(model, str) else "the model" if model is None else model_title(model)
        raise UserError(f"{name} is of {kind}, not of {title}: they differ in {', '.join(fields)}")
    adapted = [field for field in KINDS[type(told)].adapted if not (known and field == "kv_stride")]
    return dataclasses.replace(spec, **{field: getattr(told, field) for field in adapted})


def _differences(spec: MViTSpec, other: MViTSpec) -> list[str]:
    return [
        f"{field.name} {getattr(spec, field.name)}"
        for field in dataclasses.fields(spec)
        if field.name not in _FREE and getattr(spec, field.name) != getattr(other, field.name)
    ]


def _everywhere(spec: MViTSpec) -> Iterator[str]:
    """What none of the other libraries computes."""
    if spec.balance_class_token and len(spec.input_size) == 3:
        yield "it has no balance_class_token, the log of the number of key frames on the class token's score"
    height, width = spec.input_size[-2:]
    if height != width:
        yield f"it makes its position tables for square inputs, not for {height}x{width}"


def _published_head(spec: MViTSpec) -> Iterator[str]:
    """The class token where there is one, else the mean after the norm."""
    if spec.head_pooling != ("class_token" if spec.class_token else "mean"):
        token = "with" if spec.class_token else "without"
        yield f"its head knows no head_pooling {spec.head_pooling!r} {token} a class token"


def _one_size(spec: MViTSpec) -> Iterator[str]:
    """Libraries that never resize tables count patches by floor division, which must be exact."""
    whole = spec.patch_stride[-1] * spec.q_stride[-1] ** (len(spec.depths) - 1)
    side = spec.input_size[-1]
    if side % whole:
        yield f"it resizes no position table, so input sides must be multiples of {whole}, not {side}"


def _mvit_reasons(spec: MViTSpec) -> Iterator[str]:
    if len(spec.input_size) == 3:
        yield "facebookresearch/mvit is for images (SlowFast has the video networks)"
    yield from (*_everywhere(spec), *_published_head(spec), *_one_size(spec))


def _slowfast_reasons(spec: MViTSpec) -> Iterator[str]:
    yield from _everywhere(spec)
    if spec.head_pooling != "mean_then_norm":  # its MVIT.USE_MEAN_POOLING
        yield from _published_head(spec)


def _torchvision_reasons(spec: MViTSpec) -> Iterator[str]:
    small = model_spec("mvitv2_small_16x4")
    assert isinstance(small, MViTSpec)
    closest = min((small, _MVIT_V1_B), key=lambda known: len(_differences(spec, known)))
    if differences := _differences(spec, closest):
        yield f"it has mvit_v2_s and mvit_v1_b for clips of 16x224x224 alone, and this has {', '.join(differences)}"


def _timm_reasons(spec: MViTSpec) -> Iterator[str]:
    if len(spec.input_size) == 3:
        yield "it has no video networks"
    if spec.class_token:
        yield "its residual pooling adds the query to the class token too, so its *_cls networks give other outputs"
    yield from _only_version_2(spec)
    yield from (*_everywhere(spec), *_published_head(spec), *_one_size(spec))


def _mmpretrain_reasons(spec: MViTSpec) -> Iterator[str]:
    if len(spec.input_size) == 3:
        yield "it is for images (mmaction2 has the video networks)"
    if spec.class_token:
        yield "its networks have no class token"
    yield from _only_version_2(spec)
    yield from (*_everywhere(spec), *_published_head(spec))


def _mmaction2_reasons(spec: MViTSpec) -> Iterator[str]:
    if len(spec.input_size) == 2:
        yield "it is for video (mmpretrain has the image networks)"
    if spec.head_pooling != "class_token":
        yield f"its head reads the class token, not the {spec.head_pooling!r} of the patches"
    yield from (*_only_version_2(spec), *_everywhere(spec))


def _only_version_2(spec: MViTSpec) -> Iterator[str]:
    if spec.absolute_position:
        yield "it has no absolute positions apart for space and time"
    if not spec.pool_unstrided_query:
        yield "it pools the queries of every block"


def _is(kind: type) -> Callable[[Mapping[str, Tensor]], bool]:
    return lambda weights: isinstance(told_spec(weights), kind)


_is_mvit, _is_mixformer = _is(MViTSpec), _is(MixFormerSpec)


def _is_predictor(weights: Mapping[str, Tensor]) -> bool:
    return "translator.blocks.0.window.attn.qkv.weight" in weights


@dataclass(frozen=True)
class _Target:
    """A library to write for."""

    write: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    reasons: Callable[..., Iterator[str]]  # of a row: why the library would compute something else
    holds: Callable[[Mapping[str, Tensor]], bool]  # whether weights in stvit's layout are of its kind of network
    wrap: Callable[[dict[str, Tensor]], dict[str, object]] = dict  # what its files have around the weights
    images_only: str = ""  # whose code it is, where nobody's has networks of this kind for video


def _model_state(weights: dict[str, Tensor]) -> dict[str, object]:
    return {"model_state": weights}


def _model(weights: dict[str, Tensor]) -> dict[str, object]:
    return {"model": weights}


def _meta(weights: dict[str, Tensor]) -> dict[str, object]:
    return {"meta": {}, "state_dict": weights}


def _state_dict(weights: dict[str, Tensor]) -> dict[str, object]:
    return {"state_dict": weights}


TARGETS: dict[str, _Target] = {
    "mvit": _Target(mvit.from_stvit, _mvit_reasons, _is_mvit, _model_state),
    "slowfast": _Target(mvit.to_slowfast, _slowfast_reasons, _is_mvit, _model_state),
    "torchvision": _Target(torchvision_mvit.from_stvit, _torchvision_reasons, _is_mvit),
    "timm": _Target(timm_mvit.from_stvit, _timm_reasons, _is_mvit),
    "mmpretrain": _Target(mmpretrain.from_stvit, _mmpretrain_reasons, _is_mvit, _meta),
    "mmaction2": _Target(mmaction2.from_stvit, _mmaction2_reasons, _is_mvit, _meta),
    "mixvit": _Target(mixvit.from_stvit, mixvit.other_wavelet, _is(MixViTSpec), _state_dict, "MixViT's published code"),
    "openstl-mixvit": _Target(openstl_mixvit.from_stvit, mixvit.other_wavelet, _is_predictor, _state_dict),
    "paddleclas": _Target(mixformer.from_stvit, mixformer.differences, _is(MixFormerSpec), images_only="PaddleClas"),
    "paddleclas-torch": _Target(
        mixformer.to_torch_style, mixformer.differences, _is(MixFormerSpec), images_only="PaddleClas"
    ),
    "mpvit": _Target(mpvit.from_stvit, mpvit.differences, _is(MPViTSpec), _model, "MPViT's published code"),
    NATIVE: _Target(dict, lambda spec: iter(()), lambda weights: True, _state_dict),
}
