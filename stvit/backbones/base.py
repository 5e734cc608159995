"""What all backbones share: timm's model protocol over blocks in stages."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from stvit.errors import UserError
from stvit.model import Model

S = TypeVar("S")  # what a backbone hands from its last stage to its end


class FeatureInfo(tuple[dict[str, object], ...]):
    """The maps of a pyramid, finest first, as timm describes them.

    Each entry has ``num_chs`` (channels), ``reduction`` (pixels per map position in height), ``module`` (the last block
    of the stage) and ``index``, and beside timm's ``strides``, input positions per map position for every axis.
    """

    def channels(self) -> list[int]:
        """Channels of every map."""
        return [cast(int, info["num_chs"]) for info in self]

    def reduction(self) -> list[int]:
        """Pixels of the input per position of every map, in height."""
        return [cast(int, info["reduction"]) for info in self]

    def module_name(self) -> list[str]:
        """The module that ends every stage."""
        return [cast(str, info["module"]) for info in self]


def pyramid(modules: Sequence[str], widths: Sequence[int], strides: Sequence[tuple[int, ...]]) -> FeatureInfo:
    """Of every stage: the module that ends it, its channels, and input positions per map position for every axis."""
    return FeatureInfo(
        {"module": module, "num_chs": width, "reduction": stride[-2], "strides": stride, "index": index}
        for index, (module, width, stride) in enumerate(zip(modules, widths, strides, strict=True))
    )


def stage_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Drop path rates of the blocks of each stage: linear from 0 to ``rate``."""
    blocks, done, rates = sum(depths), 0, []
    for depth in depths:
        rates.append([rate * (done + block) / max(blocks - 1, 1) for block in range(depth)])
        done += depth
    return rates


def in_space(strides: Sequence[int], factor: int) -> tuple[int, ...]:
    """Strides whose last two, height and width, are multiplied."""
    return (*strides[:-2], *(stride * factor for stride in strides[-2:]))


class BackboneSpec(Protocol):
    """What the rows of all backbones say."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]

    @property
    def input_size(self) -> tuple[int, ...]: ...

    @property
    def in_channels(self) -> int: ...

    @property
    def num_classes(self) -> int: ...


class Head(Protocol):
    """The end of a classifier, whose last layer is ``projection``."""

    projection: nn.Module


class Backbone(Model, Generic[S]):
    """A classifier whose stages give a pyramid of maps; the method names are timm's.

    A subclass sets ``spec``, ``num_features`` (channels of the last stage), ``num_classes``, ``feature_info``, and
    ``head``, a module whose ``projection`` is the classifier; it calls :meth:`check_input` and :meth:`run_block`.
    """

    spec: BackboneSpec
    num_features: int
    num_classes: int
    feature_info: FeatureInfo
    _one_graph_a_size = False  # whether the compiler is to take sizes as constants, see hold_size
    _checkpointing = False
    _frozen_batch_norm = False

    @property
    def head_hidden_size(self) -> int:
        """Values that the classifier sees."""
        return self.num_features

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` or clips ``(B, C, T, H, W)`` to logits ``(B, num_classes)``, never probabilities.

        With ``num_classes=0``: to the features that the classifier would see, ``(B, head_hidden_size)``.
        """
        return self.forward_head(self.forward_features(x))

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """The input to what :meth:`forward_head` takes."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits ``(B, num_classes)``, or with ``pre_logits`` to what the classifier sees."""

    @abstractmethod
    def forward_stages(self, x: Tensor, count: int) -> tuple[list[Tensor], S]:
        """Maps ``(B, C, *grid)`` after the first ``count`` stages, not normalised, and what goes on from there."""

    def map_for_dense(self, index: int, features: Tensor) -> Tensor:
        """The map of a stage as dense networks get it: as it is, unless the family has a norm for each map."""
        return features

    def parameters_of_map(self, index: int) -> list[nn.Parameter]:
        """What :meth:`map_for_dense` learns for one stage."""
        return []

    @abstractmethod
    def forward_final(self, state: S) -> Tensor:
        """From where the last stage ended to what :meth:`forward_features` gives."""

    @abstractmethod
    def norm_map(self, features: Tensor) -> Tensor:
        """The final norm on the map of the last stage."""

    @abstractmethod
    def parameters_after(self, count: int) -> list[nn.Parameter]:
        """What the maps of the first ``count`` stages do not depend on."""

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps ``(B, C, *grid)`` after chosen stages; timm's signature.

        Args:
            x: as in :meth:`forward`.
            indices: stages counted from 0, negative ones from the end; one number: so many last ones; None: all.
            norm: apply the final norm to the map of the last stage.
            stop_early: with ``intermediates_only``, do not run stages after the last chosen one (never done anyway).
            output_fmt: ``"NCHW"``, the channels-first maps that there are; of clips ``(B, C, T, H, W)``.
            intermediates_only: give the maps alone, else ``(what forward_features gives, maps)``.
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt={output_fmt!r}: maps are channels-first, 'NCHW'")
        stages = len(self.feature_info)
        chosen = stage_indices(indices, stages)
        maps, state = self.forward_stages(x, chosen[-1] + 1 if intermediates_only else stages)
        if norm and stages - 1 in chosen:
            maps[-1] = self.norm_map(maps[-1])
        picked = [self.map_for_dense(index, maps[index]) for index in chosen]
        return picked if intermediates_only else (self.forward_final(state), picked)

    def get_classifier(self) -> nn.Module:
        """The layer that gives logits."""
        return cast(Head, self.head).projection

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace it by a fresh one for so many classes; 0 takes it away.

        ``global_pool`` is there for timm's sake: the published pooling is the only one.
        """
        if global_pool is not None:
            raise UserError(f"global_pool={global_pool!r}: the pooling is the published one, leave it out")
        old = next(self.parameters())
        fresh = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.init_classifier(fresh)
        cast(Head, self.head).projection = fresh.to(old.device, old.dtype)
        self.num_classes = num_classes
        self.model_args = {**getattr(self, "model_args", {}), "num_classes": num_classes}
        self.spec = dataclasses.replace(self.spec, num_classes=num_classes)

    def may_be_fresh(self) -> set[str]:
        """Names of weights that checkpoints of the classifier lack and that then start fresh: norms of single maps."""
        return set()

    def init_classifier(self, layer: nn.Module) -> None:
        """Fill a fresh classifier: normal of 0.02, cut at 2, and zero bias."""
        init_linear(layer)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations inside blocks again in the backward pass, instead of keeping them."""
        self._checkpointing = enable

    def run_block(self, block: nn.Module, *inputs: object) -> object:
        """``block(*inputs)``, with activations checkpointed where :meth:`set_grad_checkpointing` asks for it.

        Running statistics of batch norms are updated once.
        """
        if not (self._checkpointing and torch.is_grad_enabled()):
            return block(*inputs)
        if torch.compiler.is_compiling() or not any(isinstance(module, _BatchNorm) for module in block.modules()):
            return checkpoint(block, *inputs, use_reentrant=False)
        contexts = (_BatchStatistics(block, update=True), _BatchStatistics(block, update=False))
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: contexts)

    def freeze_batch_norm(self, enable: bool = True) -> None:
        """Keep batch norms in evaluation mode while the rest trains; their weights and biases still learn.

        For small batches, as in detection.
        """
        self._frozen_batch_norm = enable
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone[S]:
        """As of any module, but for batch norms that :meth:`freeze_batch_norm` froze."""
        super().train(mode)
        if self._frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def check_input(self, x: Tensor) -> None:
        """Raise :class:`UserError` for an input of other axes, channels or type."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else f"a {type(x).__name__}"
            name = getattr(self, "model_name", type(self).__name__)
            raise UserError(
                f"{name} takes a tensor of floats, pixels normalised as model.preprocessing says, not {kind}"
            )
        if self._one_graph_a_size and torch.compiler.is_compiling():
            hold_size(x)
        if x.ndim != 2 + len(self.spec.input_size) or x.shape[1] != self.spec.in_channels:
            axes = "(B, C, H, W)" if len(self.spec.input_size) == 2 else "(B, C, T, H, W)"
            raise UserError(
                f"{getattr(self, 'model_name', type(self).__name__)} takes {axes} with C = {self.spec.in_channels}, "
                f"not a tensor of shape {tuple(x.shape)}"
            )

    @abstractmethod
    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Regular expressions that put parameters into layers by depth, for timm's layer-wise learning rates."""


def hold_size(x: Tensor) -> None:
    """Make the compiler take the sides of a map as constants, for one graph a size; the batch may still vary.

    Sizes of later maps are roundings up of roundings up, over which its symbolic arithmetic would sit for minutes.
    """
    for side in x.shape[2:]:
        _ = [None] * side  # a list cannot be of unknown length


class _BatchStatistics:
    """Whether the batch norms of a block take the statistics of a batch into their running ones.

    A checkpointed block runs twice on a batch, which must count once.
    """

    def __init__(self, block: nn.Module, update: bool) -> None:
        self.block, self.update = block, update
        self.held: list[tuple[_BatchNorm, float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        norms = (module for module in self.block.modules() if isinstance(module, _BatchNorm))
        for norm in (norm for norm in norms if norm.training and not self.update):
            count = norm.num_batches_tracked
            self.held.append((norm, norm.momentum, None if count is None else count.clone()))
            norm.momentum = 0.0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for norm, momentum, count in self.held:
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
        self.held = []


def init_linear(module: nn.Module) -> None:
    """Normal of 0.02, cut at 2, and zero bias, for linear layers; for :meth:`torch.nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def stage_indices(indices: int | Sequence[int] | None, stages: int) -> list[int]:
    """Stages by number, as :meth:`Backbone.forward_intermediates` takes them."""
    if indices is None:
        return list(range(stages))
    chosen = list(range(stages))[-indices:] if isinstance(indices, int) else list(indices)
    if not all(isinstance(index, int) for index in chosen) or len(set(chosen)) < len(chosen):
        raise UserError(f"stages {chosen} were asked for: give each number from 0 to {stages - 1} once at most")
    for index in chosen:
        if not -stages <= index < stages:
            raise UserError(f"stage {index} was asked for, and stages go from 0 to {stages - 1}")
    if isinstance(indices, int) and not 0 < indices <= stages:
        raise UserError(f"{indices} stages were asked for, and there are {stages}")
    if not chosen:
        raise UserError(f"no stage was asked for: choose from 0 to {stages - 1}")
    return sorted({index % stages for index in chosen})


class FeatureMaps(Model):
    """A backbone as the bottom of a dense network: input to a list of maps ``(B, C, *grid)``, finest first.

    ``create_model(name, features_only=True)`` builds it. ``feature_info`` describes the maps in the same order.
    Stages after the last map are not run, and what no map depends on takes no gradient (as
    DistributedDataParallel wants it).
    """

    def __init__(self, network: Backbone[S], out_indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.out_indices = stage_indices(out_indices, len(network.feature_info))
        self.feature_info = FeatureInfo(network.feature_info[index] for index in self.out_indices)
        unneeded = self.unneeded()
        for name, parameter in network.named_parameters():
            if name in unneeded:
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, _ = self.network.forward_stages(x, self.out_indices[-1] + 1)
        return [self.network.map_for_dense(index, maps[index]) for index in self.out_indices]

    def unneeded(self) -> set[str]:
        """Names of the network's parameters that no map depends on."""
        unneeded = self.network.parameters_after(self.out_indices[-1] + 1)
        for index in range(len(self.network.feature_info)):
            unneeded += [] if index in self.out_indices else self.network.parameters_of_map(index)
        ids = {id(parameter) for parameter in unneeded}
        return {name for name, parameter in self.network.named_parameters() if id(parameter) in ids}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See :class:`Backbone`."""
        self.network.set_grad_checkpointing(enable)

    def freeze_batch_norm(self, enable: bool = True) -> None:
        """See :class:`Backbone`."""
        self.network.freeze_batch_norm(enable)
