"""From YAML files and KEY VALUE pairs to values of the right type in the tree, with the place of each for messages."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from stvit.config.defaults import FREE_LISTS, FREE_SUBTREE
from stvit.config.slowfast_keys import DEFAULTS
from stvit.errors import UserError, nearest

_MVIT_KEYS = sorted(key for key in DEFAULTS if key.startswith("MVIT."))

PlainValue = None | bool | int | float | str | list["PlainValue"] | dict[str, "PlainValue"]

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Setting:
    """One assignment: a dotted key, its value, and where a person wrote it."""

    key: str
    value: object
    place: str


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that ``1e-3`` is a number (PyYAML wants ``1.0e-3``)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str, _within: tuple[str, ...] = ()) -> list[Setting]:
    """The assignments of a YAML file in order, those of its ``_BASE_`` files first.

    Raises:
        UserError: no such file, not YAML, a key that stands twice, or a ``_BASE_`` that leads back to itself.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise UserError(f"the config {path!r} is not a file")
    resolved = str(source.resolve())
    if resolved in _within:
        raise UserError(f"{path}: {BASE_KEY} leads back to this file")
    try:
        loader = _Loader(source.read_bytes())
        root = loader.get_single_node()
        settings = list(_walk(loader, root, "", path, _is_foreign(root))) if root is not None else []
    except yaml.reader.ReaderError as error:
        raise UserError(f"{path}: not a UTF-8 text file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        hint = " (look for spaces that are missing or too many at the beginnings of the lines around)" if mark else ""
        raise UserError(f"{path}{line}: not YAML: {problem}{hint}") from error
    bases: list[Setting] = []
    for base in (s for s in settings if s.key == BASE_KEY):
        for name in base.value if isinstance(base.value, list) else [base.value]:
            bases += read_yaml(str(source.parent / Path(str(name)).expanduser()), (*_within, resolved))
    return bases + [s for s in settings if s.key != BASE_KEY]


def _is_foreign(root: yaml.Node) -> bool:
    """Whether a file has the groups that describe a network for facebookresearch/mvit or SlowFast."""
    groups = _entries(root)
    return "MVIT" in groups or not {"ARCH", "MODEL_NAME"}.isdisjoint(_entries(groups.get("MODEL")))


def _entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def _walk(loader: _Loader, node: yaml.Node, prefix: str, path: str, foreign: bool) -> Iterable[Setting]:
    """Flatten a mapping into dotted keys; only the model's free settings may hold what the tree does not know.

    In a foreign file a setting may stand twice, as in some that are published; a group may not.
    """
    if not isinstance(node, yaml.MappingNode):
        raise UserError(
            f"{path}:{node.start_mark.line + 1}: expected 'KEY: value' lines{prefix and f' under {prefix}'}"
        )
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        name = str(loader.construct_object(key_node, deep=True))
        key = f"{prefix}.{name}" if prefix else name
        if name in seen and not (foreign and isinstance(value_node, yaml.ScalarNode | yaml.SequenceNode)):
            raise UserError(f"{path}:{line}: {key} stands here a second time; the first is in line {seen[name]}")
        seen[name] = line
        if isinstance(value_node, yaml.MappingNode) and prefix != FREE_SUBTREE:
            yield from _walk(loader, value_node, key, path, foreign)
        else:
            yield Setting(key, loader.construct_object(value_node, deep=True), f"{path}:{line}")


def read_overrides(pairs: Sequence[str]) -> list[Setting]:
    """The assignments of a command line: ``KEY VALUE KEY VALUE ...``; values stay text until their key is known."""
    if len(pairs) % 2:
        raise UserError(f"{COMMAND_LINE}: {pairs[-1]!r} has no value; settings come as KEY VALUE pairs")
    return [Setting(key, _Text(value), COMMAND_LINE) for key, value in zip(pairs[::2], pairs[1::2], strict=True)]


class _Text(str):
    """Text from a command line: it means whatever the key's type makes of it."""


def decoded(value: object) -> object:
    """What a value means whose key's type is not known: text from a command line is a number, a list, ... or text."""
    return _decode(value) if isinstance(value, _Text) else value


def _decode(text: str) -> object:
    """A Python literal, else a YAML value (``true``, ``[a, b]``), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader: no code
    except yaml.YAMLError:
        return text


def apply_settings(cfg: CfgNode, settings: Iterable[Setting]) -> dict[str, str]:
    """Write the assignments into the tree, converted to the types of its defaults; returns the place of each key.

    Raises:
        UserError: an unknown key or a value of the wrong type.
    """
    known = list(leaves(cfg))
    places: dict[str, str] = {}
    for setting in settings:
        *path, name = setting.key.split(".")
        node = cfg
        for part in path:
            node = node.get(part) if isinstance(node, CfgNode) else None
        if ".".join(path) == FREE_SUBTREE:
            node[name] = _free_value(setting)
        elif not isinstance(node, CfgNode) or name not in node:
            names = _MVIT_KEYS if setting.key.startswith("MVIT.") else known
            raise UserError(f"{setting.place}: no setting is named {setting.key!r}{nearest(setting.key, names)}")
        elif isinstance(node[name], CfgNode):
            if setting.value is not None:  # an empty group in a file is one whose lines are all commented out
                raise UserError(f"{setting.place}: {setting.key} is a group of settings; set {setting.key}.NAME")
            continue
        else:
            node[name] = _convert(setting, node[name])
        places[setting.key] = setting.place
    return places


def _free_value(setting: Setting) -> object:
    """A value for the model's row: a number, a name, a truth value or a list of them."""
    value = decoded(setting.value)
    value = list(value) if isinstance(value, tuple) else value
    if not all(isinstance(v, bool | int | float | str) for v in (value if isinstance(value, list) else [value])):
        raise UserError(f"{setting.place}: {setting.key} must be a number, a name or a list of them, not {value!r}")
    return value


_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def _convert(setting: Setting, default: object) -> object:
    """The value as the type of the default; whole numbers pass for numbers, nothing else passes for anything."""
    if isinstance(default, str) and isinstance(setting.value, _Text):
        return str(setting.value)
    value = decoded(setting.value)
    if not isinstance(default, list):
        return _scalar(setting, value, type(default))
    kind = FREE_LISTS.get(setting.key) or type(default[0])
    length = "" if setting.key in FREE_LISTS else f" {len(default)}"
    if not isinstance(value, list | tuple) or (length and len(value) != len(default)):
        example = default or [2]
        raise UserError(
            f"{setting.place}: {setting.key} must be a list of{length} numbers like {example}, not {value!r}"
        )
    return [_scalar(setting, v, kind) for v in value]


def _scalar(setting: Setting, value: object, kind: type) -> object:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        quotes = " (put it in quotes)" if kind is str and value is not None else ""
        raise UserError(f"{setting.place}: {setting.key} must be {_NAMES[kind]}, not {value!r}{quotes}")
    return value


def leaves(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    """All settings by dotted key; the model's free settings as one dict."""
    found: dict[str, object] = {}
    for name, value in cfg.items():
        key = f"{prefix}{name}"
        if isinstance(value, CfgNode) and key != FREE_SUBTREE:
            found.update(leaves(value, f"{key}."))
        else:
            found[key] = dict(value) if isinstance(value, CfgNode) else value
    return found


def config_to_dict(cfg: CfgNode) -> dict[str, PlainValue]:
    """Plain nested dicts, lists and scalars, for checkpoints, YAML and JSON."""
    return {
        name: config_to_dict(value) if isinstance(value, CfgNode) else list(value) if isinstance(value, list) else value
        for name, value in cfg.items()
    }
