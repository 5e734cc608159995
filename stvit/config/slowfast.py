"""Settings in the words of facebookresearch/mvit and SlowFast, said in stvit's.

A file that describes a network by MODEL.MODEL_NAME, MODEL.ARCH or ``MVIT.*`` instead of by MODEL.NAME is one of theirs:
what it leaves out has their default, not ours. It is SlowFast's if it sets anything that only SlowFast knows, and
mvit's otherwise; SlowFast's files for MViT have to set such things (MODEL.ARCH), mvit's cannot.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import replace

from stvit.config.defaults import default_config
from stvit.config.reading import COMMAND_LINE, Setting, decoded, leaves
from stvit.config.slowfast_keys import (
    ABSENT,
    AS_HERE,
    DEFAULTS,
    KNOWN,
    LEFTOVER,
    MVIT,
    NOTHING,
    ONLY_MVIT,
    ONLY_SLOWFAST,
    PATHS,
    REFUSED,
    SLOWFAST,
)
from stvit.config.slowfast_rules import CLIPS, DEFAULT_OF, RULES, Translation, translate_clips, translate_dataset
from stvit.errors import UserError

# Settings that name the network; any of them makes a file one of theirs.
_NETWORK = ("MODEL.MODEL_NAME", "MODEL.ARCH")


def translate(settings: Sequence[Setting]) -> tuple[list[Setting], list[str]]:
    """The same settings by our keys, and remarks for the user, a line each.

    Raises:
        UserError: an order that stvit cannot carry out, or settings that contradict each other.
    """
    known = set(leaves(default_config()))
    settings = [s for s in settings if not _is_empty_group(s, known)]
    foreign = [s for s in settings if s.key in KNOWN and s.key not in known]
    on_cpu = [decoded(s.value) for s in settings if s.key == "NUM_GPUS"][-1:] == [0]
    named = next((s for s in settings if s.key == "MODEL.NAME"), None)
    describes = next((s for s in foreign if s.key in _NETWORK or s.key.startswith("MVIT.")), None)
    if not foreign:
        return list(settings), []
    if describes is None or named is not None:
        own = [s for s in settings if s not in foreign]
        translation = Translation({s.key: _read(s) for s in foreign}, on_cpu)
        if named is not None:
            _adjust_named(translation, named)
        _translate_each(translation)
        return [*translation.ours, *own], _remarks(translation)
    project = _project([s for s in settings if s.place != COMMAND_LINE] or settings)
    telling = next((s for s in settings if s.key in ONLY_SLOWFAST), None) if project == SLOWFAST else describes
    told_by = f" (whose file this is by {telling.key}, {telling.place})" if telling is not None else ""
    translation = Translation(_with_defaults(settings, project), on_cpu, told_by)
    translation.remarks += _repeated(settings, project)
    _translate_network(translation)
    _translate_each(translation)
    if translation.dataset in CLIPS:
        translate_clips(translation)
    shared = [s for key, s in translation.theirs.items() if key in known]
    own = [s for s in settings if s.key not in KNOWN]
    return [*shared, *translation.ours, *own], _remarks(translation)


def _is_empty_group(setting: Setting, known: set[str]) -> bool:
    """Whether this is a group that only they have, with all of its lines commented out."""
    group = f"{setting.key}."
    return (
        setting.value is None
        and any(key.startswith(group) for key in KNOWN)
        and not any(key.startswith(group) for key in known)
    )


def _read(setting: Setting) -> Setting:
    """The setting with its value as plain text, number, list ..., whichever the setting needs."""
    examples = ("",) if setting.key in PATHS else DEFAULTS.get(setting.key) or REFUSED.get(setting.key, ((), ""))[0]
    if isinstance(setting.value, str) and any(isinstance(value, str) for value in examples):
        value: object = str(setting.value)
    else:
        value = _plain(decoded(setting.value))
    if setting.key in NOTHING and value in (None, "None"):
        value = NOTHING[setting.key]
    return replace(setting, value=_of_kind(setting, value))


def _plain(value: object) -> object:
    """Their files may hold Python's ``(3, 7, 7)`` and ``None``, which YAML reads as text."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _project(settings: Iterable[Setting]) -> str:
    """Whose settings these are.

    Raises:
        UserError: one that only mvit knows beside one that only SlowFast knows.
    """
    settings = list(settings)
    slowfast = next((s for s in settings if s.key in ONLY_SLOWFAST), None)
    mvit = next((s for s in settings if s.key in ONLY_MVIT), None)
    if slowfast is not None and mvit is not None:
        raise UserError(
            f"{mvit.place}: {mvit.key} is known to {MVIT} alone and {slowfast.key} ({slowfast.place}) to {SLOWFAST} "
            "alone: it cannot be told whose defaults are meant"
        )
    return MVIT if slowfast is None else SLOWFAST


def _with_defaults(settings: Iterable[Setting], project: str) -> dict[str, Setting]:
    """All that the project has a default for, and what else of theirs is set, with values of the right kind."""
    place = f"{DEFAULT_OF}{project}"
    theirs: dict[str, Setting] = {}
    for key, (mvit, slowfast) in DEFAULTS.items():
        value = mvit if project == MVIT else slowfast
        # What mvit has no switch for is as SlowFast has it by default, but that its networks are for images.
        value = slowfast if value is ABSENT else value
        theirs[key] = Setting(key, value if value is not ABSENT else mvit, place)
    if project == MVIT:
        theirs |= {key: Setting(key, True, place) for key in ("MVIT.PATCH_2D", "AUG.ENABLE")}
        theirs["MODEL.ARCH"] = Setting("MODEL.ARCH", "mvit", place)
    for setting in settings:
        if setting.key in KNOWN:
            theirs[setting.key] = _read(setting)
    return theirs


def _of_kind(setting: Setting, value: object) -> object:
    """The value, if it has the type of one of the defaults; whole numbers pass for numbers."""
    defaults = [v for v in DEFAULTS.get(setting.key, ()) if v is not ABSENT]
    kinds = {type(v) for v in defaults}
    if setting.key in ("MVIT.POOL_KVQ_KERNEL", "MVIT.POOL_KV_STRIDE_ADAPTIVE"):
        kinds.add(list)
    if not kinds or type(value) in kinds:
        return value
    if float in kinds and type(value) is int:
        return float(value)
    raise UserError(
        f"{setting.place}: {setting.key} must be of the kind of {defaults[-1]!r}, its default, not {value!r}"
    )


def _repeated(settings: Iterable[Setting], project: str) -> list[str]:
    """Settings that stand in one file twice with different values."""
    first: dict[tuple[str, str], Setting] = {}
    remarks = []
    for setting in settings:
        path = setting.place.rpartition(":")[0]
        before = first.setdefault((path, setting.key), setting)
        if path and before.value != setting.value:
            where = before.place.rpartition(":")[2]
            remarks.append(
                f"{setting.place}: {setting.key} stands here a second time, the first is in line {where}; this one "
                f"counts, as in {project}"
            )
    return remarks


def _translate_network(translation: Translation) -> None:
    """MODEL.NAME and MODEL.ARGS."""
    from stvit.config.mvit_keys import mvit_spec_from_keys, nearest_row  # needs the models; other settings do not

    if translation.value("MODEL.MODEL_NAME") != "MViT":
        translation.refuse("MODEL.MODEL_NAME", "of their networks stvit has MViT alone")
    values = {key: setting.value for key, setting in translation.theirs.items()}
    name, fields = mvit_spec_from_keys(values, translation.refuse)
    if translation.value("MODEL.ARCH") != "mvit":
        translation.refuse("MODEL.ARCH", "with MODEL.MODEL_NAME MViT it is mvit")
    if name is None:
        name, fields = nearest_row(fields)
        listed = ", ".join(f"{key}={list(v) if isinstance(v, tuple) else v}" for key, v in fields.items())
        translation.remarks.append(f"MVIT.*: no named model is this network; it is {name} with {listed}")
    place = "MVIT.*"
    for key in ("num_classes", "input_size"):  # of MODEL.NUM_CLASSES, DATA.TRAIN_CROP_SIZE and DATA.NUM_FRAMES
        fields.pop(key, None)
    translation.ours.append(Setting("MODEL.NAME", name, place))
    for key, value in fields.items():
        plain = list(value) if isinstance(value, tuple) else value
        translation.ours.append(Setting(f"MODEL.ARGS.{key}", plain, place))


def _adjust_named(translation: Translation, named: Setting) -> None:
    """What their keys may change in a network that has a name here."""
    for key, setting in translation.theirs.items():
        if key == "MVIT.DROPPATH_RATE":
            translation.say("MODEL.ARGS.drop_path", setting.value, key)
        elif key == "MODEL.DROPOUT_RATE":
            translation.say("MODEL.ARGS.head_dropout", setting.value, key)
        elif (key.startswith("MVIT.") and key != "MVIT.ZERO_DECAY_POS_CLS") or key in _NETWORK:
            raise UserError(
                f"{setting.place}: {key} describes a network, but MODEL.NAME ({named.place}) names one: set what "
                "differs from it in MODEL.ARGS"
            )


def _translate_each(translation: Translation) -> None:
    """All settings of theirs that do not describe the network."""
    theirs = translation.theirs
    for key, (harmless, why) in REFUSED.items():
        if key in theirs and translation.value(key) not in harmless:
            translation.refuse(key, why)
    for key, rule in RULES.items():
        if key in theirs:
            rule(translation)
    translate_dataset(translation)
    ours = {*leaves(default_config()), *DEFAULTS, *REFUSED}
    for key, setting in theirs.items():
        if not (setting.value in AS_HERE[key] if key in AS_HERE else key in ours):
            translation.ignored.append(key)


def _remarks(translation: Translation) -> list[str]:
    remarks = list(translation.remarks)
    left = [key for key in translation.ignored if key in LEFTOVER]
    ignored = [key for key in translation.ignored if key not in LEFTOVER]
    if left:
        place = translation.theirs[left[0]].place
        remarks.append(f"{place}: {', '.join(left)} is ignored; {SLOWFAST} itself has no such setting and refuses it")
    if ignored:
        remarks.append(f"these settings mean nothing here and are ignored: {', '.join(ignored)}")
    return remarks
