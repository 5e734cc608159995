"""What the settings of facebookresearch/mvit and SlowFast come to in stvit's, but for those of the network itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from stvit.config.reading import COMMAND_LINE, Setting
from stvit.config.slowfast_keys import ABSENT, DEFAULTS
from stvit.errors import UserError, nearest

# How the place of a setting begins that is in no file.
DEFAULT_OF = "default of "

DATASETS = {"imagenet": "imagenet", "imagenetprefetch": "imagenet", "kinetics": "kinetics", "ssv2": "ssv2"}
CLIPS = ("kinetics", "ssv2")


@dataclass
class Translation:
    """Settings of theirs by key, the last of each, and what has become of them so far."""

    theirs: dict[str, Setting]
    on_cpu: bool
    told_by: str = ""  # how the project was recognised, for messages about its defaults
    dataset: str = ""  # ours, by the setting that names one
    ours: list[Setting] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def value(self, key: str) -> object:
        return self.theirs[key].value

    def is_default(self, key: str) -> bool:
        return self.theirs[key].place.startswith(DEFAULT_OF)

    def say(self, key: str, value: object, because_of: str) -> None:
        """Set one of our keys; the place is that of their setting."""
        self.ours.append(Setting(key, value, self.theirs[because_of].place))

    def refuse(self, key: str, wanted: str) -> NoReturn:
        setting = self.theirs[key]
        if not self.is_default(key):
            raise UserError(f"{setting.place}: {key} is {setting.value!r}, but {wanted}")
        other = DEFAULTS.get(key, (ABSENT,))[0]  # mvit's, which is one of stvit's networks
        way_out = f"{key}: {other}" if isinstance(other, bool | str) and other != setting.value else key
        raise UserError(
            f"{setting.place}{self.told_by}: {key} is {setting.value!r}, but {wanted}; set {way_out} in the file"
        )


def translate_dataset(translation: Translation) -> None:
    """DATA.DATASET from TRAIN.DATASET and TEST.DATASET."""
    given = [k for k in ("TRAIN.DATASET", "TEST.DATASET") if k in translation.theirs]
    written = [k for k in given if not translation.is_default(k)] or given
    names = {}
    for key in written:
        name = str(translation.value(key))
        if name.lower() not in DATASETS:
            translation.refuse(key, f"of their data sets stvit knows {', '.join(DATASETS)}{nearest(name, DATASETS)}")
        names[key] = DATASETS[name.lower()]
    if len(set(names.values())) > 1:
        translation.refuse(written[0], f"TEST.DATASET is {translation.value('TEST.DATASET')!r}: a run has one data set")
    if written:
        translation.dataset = names[written[0]]
        translation.say("DATA.DATASET", translation.dataset, written[0])


def _augmentation(translation: Translation) -> None:
    if translation.value("AUG.ENABLE") is not True:
        for key, nothing in (("AA_TYPE", ""), ("COLOR_JITTER", 0.0), ("RE_PROB", 0.0), ("NUM_SAMPLE", 1)):
            translation.say(f"AUG.{key}", nothing, "AUG.ENABLE")


def _mixing(translation: Translation) -> None:
    """Their label smoothing is a part of mixing."""
    if translation.value("MIXUP.ENABLE") is not True:
        translation.say("MIXUP.LABEL_SMOOTH_VALUE", 0.0, "MIXUP.ENABLE")


def _precision(translation: Translation) -> None:
    """Their mixed precision is float16, and only on GPUs."""
    mixed = translation.value("TRAIN.MIXED_PRECISION") is True and not translation.on_cpu
    translation.say("TRAIN.PRECISION", "fp16" if mixed else "fp32", "TRAIN.MIXED_PRECISION")


def _warmup(translation: Translation) -> None:
    """Where there is no warm-up, its start is not looked at."""
    if not translation.value("SOLVER.WARMUP_EPOCHS"):
        translation.say("SOLVER.WARMUP_START_LR", 0.0, "SOLVER.WARMUP_EPOCHS")


def _machines(translation: Translation) -> None:
    """They count the batch of one machine; here it is that of the whole run."""
    machines = translation.value("NUM_SHARDS")
    if not isinstance(machines, int) or machines < 1:
        translation.refuse("NUM_SHARDS", "a run has at least one machine")
    if machines == 1:
        return
    if "TRAIN.BATCH_SIZE" not in translation.theirs:  # one of our files, whose batch is that of the run already
        translation.ignored.append("NUM_SHARDS")
        return
    scaled = ["TRAIN.BATCH_SIZE"]
    if translation.value("SOLVER.BASE_LR_SCALE_NUM_SHARDS"):
        scaled += ["SOLVER.BASE_LR", "SOLVER.WARMUP_START_LR", "SOLVER.COSINE_END_LR"]
    for key in scaled:
        value = translation.value(key)
        assert isinstance(value, int | float)
        translation.theirs[key] = replace(translation.theirs[key], value=value * machines)
    translation.remarks.append(
        f"NUM_SHARDS {machines}: {', '.join(scaled)} are multiplied by it: here a batch is that of all processes"
    )


def _crop_ratio(translation: Translation) -> None:
    key = "DATA.IN_VAL_CROP_RATIO"
    if not translation.is_default(key):  # SlowFast's default is mvit's, and ours
        translation.say("DATA.VAL_CROP_RATIO", translation.value(key), key)


def _position_decay(translation: Translation) -> None:
    key = "MVIT.ZERO_DECAY_POS_CLS"
    translation.say("SOLVER.ZERO_WD_POS_CLS", translation.value(key), key)


def _decoder(translation: Translation) -> None:
    key = "DATA.DECODING_BACKEND"
    if translation.value(key) == "pyav":
        translation.say("DATA.DECODER", "pyav", key)
    elif not translation.is_default(key):
        translation.remarks.append(
            f"{key} {translation.value(key)}: decoding is DATA.DECODER's, auto, which takes PyAV"
        )


def _colour_order(translation: Translation) -> None:
    """They read Something-Something's frames as BGR and videos as RGB, and may turn that around."""
    key = "DATA.REVERSE_INPUT_CHANNEL"
    if translation.value(key) is not (translation.dataset == "ssv2"):
        translation.remarks.append(
            f"{key} {translation.value(key)}: by it SlowFast's frames are BGR; here frames are RGB in any case"
        )


def translate_clips(translation: Translation) -> None:
    """What their settings mean where a data set of videos is learnt from, and all their defaults are there."""
    _colour_order(translation)
    _clip_sides(translation)
    if translation.theirs["AUG.INTERPOLATION"].place != COMMAND_LINE:
        # Theirs is for RandAugment alone; frames are resized bilinearly.
        translation.say("AUG.INTERPOLATION", "bilinear", "AUG.INTERPOLATION")
    if translation.is_default("DATA.PATH_LABEL_SEPARATOR"):
        translation.say("DATA.PATH_LABEL_SEPARATOR", "", "DATA.PATH_LABEL_SEPARATOR")
    # A training video that cannot be read is replaced there, too; here by at most DATA.MAX_BAD_PERCENT of the list.
    translation.say("DATA.ON_BAD_VIDEO", "replace", "DATA.PATH_PREFIX")
    weights = "TRAIN.CHECKPOINT_FILE_PATH"
    if weights in translation.theirs and translation.value(weights):
        # They, too, inflate weights of images, and leave a head for other classes at random.
        translation.say("MODEL.INIT", translation.value(weights), weights)
        translation.say(weights, "", weights)


def _clip_sides(translation: Translation) -> None:
    """Their test clips have the shortest side of training if one crop is tested, and the side of the crop if three."""
    if not translation.is_default("DATA.IN_VAL_CROP_RATIO"):  # theirs is for images
        translation.ignored.append("DATA.IN_VAL_CROP_RATIO")
    if not translation.is_default("DATA.VAL_CROP_RATIO"):
        return
    key, ratio = "DATA.TRAIN_JITTER_SCALES", 1.0
    if translation.dataset == "kinetics" and translation.value("TEST.NUM_SPATIAL_CROPS") == 1:
        crop, sides = translation.value("DATA.TEST_CROP_SIZE"), translation.value(key)
        assert isinstance(crop, int)
        assert isinstance(sides, list)
        if not (len(sides) == 2 and isinstance(sides[0], int) and sides[0] >= crop):
            translation.refuse(key, f"its first is the short side of test clips: at least DATA.TEST_CROP_SIZE {crop}")
        ratio = crop / sides[0]
        if int(crop / ratio) < sides[0]:  # by rounding: a side is cut to whole pixels
            ratio = math.nextafter(ratio, 0)
    translation.say("DATA.VAL_CROP_RATIO", ratio, key)


RULES: dict[str, Callable[[Translation], None]] = {
    "AUG.ENABLE": _augmentation,
    "MIXUP.ENABLE": _mixing,
    "TRAIN.MIXED_PRECISION": _precision,
    "NUM_SHARDS": _machines,
    "SOLVER.WARMUP_EPOCHS": _warmup,
    "DATA.IN_VAL_CROP_RATIO": _crop_ratio,
    "DATA.DECODING_BACKEND": _decoder,
    "MVIT.ZERO_DECAY_POS_CLS": _position_decay,
}
