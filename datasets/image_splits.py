"""The three parts of an image data set, and which logit of a network stands for which of its folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stvit.datasets.image_folder import ImageList, class_names, list_images
from stvit.errors import UserError


@dataclass(frozen=True)
class ImageSplits:
    """What a run reads; parts that it does not need are None."""

    classes: tuple[str, ...]  # the folders of train/, or without one those of the tested part
    train: ImageList | None
    validation: ImageList | None
    test: ImageList | None
    validation_is_test: bool  # there is no test/ of its own

    @property
    def identity(self) -> dict[str, object]:
        """Plain values that say which files these are, for checkpoints and results."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "dataset": "image folders",
            **{name: None if part is None else part.identity() for name, part in parts.items()},
            "validation_is_test": self.validation_is_test,
        }


def image_splits(root: Path, training: bool, testing: bool) -> ImageSplits:
    """The lists of ``train/`` and ``val/`` for training, and of ``test/`` for testing.

    As ImageNet has no labelled test set, testing takes ``val/`` where ``test/`` is missing or holds no class.

    Raises:
        UserError: a part that is needed is not there or cannot be used (:func:`stvit.datasets.list_images`).
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: DATA.PATH_TO_DATA_DIR names the one that holds train/ and val/")
    if not any((root / name).is_dir() for name in ("train", "val", "test")):
        _refuse_part(root)
    if not training and not (root / "train").is_dir():
        only = list_images(_tested(root))
        return ImageSplits(only.classes, None, None, only, only.folder.name == "val")
    train = list_images(root / "train") if training else None
    classes = train.classes if train is not None else class_names(root / "train")
    validation = list_images(root / "val", classes) if training else None
    is_validation = testing and _tested(root).name == "val"
    test = validation if is_validation else None
    if testing and test is None:
        test = list_images(_tested(root), classes)
    return ImageSplits(classes, train, validation, test, is_validation)


def _refuse_part(root: Path) -> None:
    """Raise :class:`UserError` if a folder without parts looks like one of them, or like classes without parts."""
    whole = root.resolve().parent
    if (whole / "train").is_dir() or (whole / "val").is_dir():
        parent = root.parent if root.name not in ("", "..") else whole  # as the user wrote it
        raise UserError(f"{root} is one part of a data set: set DATA.PATH_TO_DATA_DIR to its parent {parent}")
    if any(entry.is_dir() and entry.name[0] != "." for entry in root.iterdir()):
        raise UserError(
            f"{root} holds folders, but neither train/ nor val/: DATA.PATH_TO_DATA_DIR names the folder that holds "
            "train/CLASS/ and val/CLASS/"
        )


def _tested(root: Path) -> Path:
    test = root / "test"
    has_classes = test.is_dir() and any(entry.is_dir() and entry.name[0] != "." for entry in test.iterdir())
    return test if has_classes else root / "val"


def logits_of_classes(
    classes: Sequence[str], logits: int, names: Sequence[str] | None, training: bool, where: str
) -> tuple[list[int], tuple[str, ...]]:
    """Which logit stands for which folder, and the name of each logit.

    * Names that a checkpoint carries decide where it is tested.
    * 1,000 logits and folders that all have names of ImageNet-1k's classes (``n01440764``, ...): ImageNet's order, so
      that published networks can be tested, and trained further, on a part of its classes. So also 400 logits and
      Kinetics-400 (``abseiling``, ...).
    * As many folders as logits: the folders' order. In training there may be fewer folders; the last logits then
      stand for nothing.

    Args:
        classes: the folders' names, sorted.
        logits: how many the network has (MODEL.NUM_CLASSES).
        names: of the logits, where a checkpoint to be tested carries them.
        training: whether the network learns these classes.
        where: the data folder, for messages.

    Returns:
        The logit of each folder, and the names of the logits; fewer names than logits, if the last have none.

    Raises:
        UserError: the classes do not belong to these logits.
    """
    if names is not None and not training:
        number = {name: k for k, name in enumerate(names)}
        unknown = [name for name in classes if name not in number]
        if unknown:
            raise UserError(
                f"{where} has the class {unknown[0]!r}, which the checkpoint was not trained on (it knows "
                f"{len(names)}, such as {names[0]!r}): test it on its own classes, or train it with TRAIN.NEW_HEAD True"
            )
        return [number[name] for name in classes], tuple(names)
    published = _PUBLISHED[logits]() if logits in _PUBLISHED else ()
    if set(classes) <= set(published):
        return [published.index(name) for name in classes], published
    if len(classes) == logits or (training and len(classes) < logits):
        return list(range(len(classes))), tuple(classes)
    way_out = (
        f"MODEL.NUM_CLASSES {len(classes)} fits a network to them"
        if training
        else "fine-tune it for them (TRAIN.ENABLE True, TRAIN.CHECKPOINT_FILE_PATH FILE, TRAIN.NEW_HEAD True, "
        f"MODEL.NUM_CLASSES {len(classes)})"
        + (f", or name them as published ({published[0]}, ...)" if published else "")
    )
    raise UserError(f"{where} has {len(classes)} classes, but MODEL.NUM_CLASSES is {logits}: {way_out}")


def imagenet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k's classes in their order, from timm."""
    from timm.data import ImageNetInfo  # heavy, and needed for 1,000 classes only

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def _kinetics400_names() -> tuple[str, ...]:
    from stvit.datasets.video.kinetics import kinetics400_names

    return kinetics400_names()


# How published networks of so many logits name their classes, in the order of the logits.
_PUBLISHED = {400: _kinetics400_names, 1000: imagenet_ids}


def imagenet_names() -> tuple[str, ...]:
    """What ImageNet-1k's classes are called in English, in their order, from timm."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_descriptions())


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """Class names for people: the ids of ImageNet-1k's classes in English, others as they are."""
    if not any(re.fullmatch(r"n\d{8}", name) for name in names):
        return tuple(names)
    english = dict(zip(imagenet_ids(), imagenet_names(), strict=True))
    return tuple(english.get(name, name) for name in names)
