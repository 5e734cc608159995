"""The settings of a run: defaults, a YAML file over them, KEY VALUE pairs over that, then one check of everything.

The tree is fvcore's :class:`CfgNode`; the names of its keys are those that SlowFast and MViT users know.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from stvit.config.checks import check
from stvit.config.defaults import default_config
from stvit.config.reading import PlainValue, apply_settings, config_to_dict, read_overrides, read_yaml
from stvit.config.slowfast import translate

__all__ = ["CfgNode", "PlainValue", "config_to_dict", "default_config", "load_config"]


def load_config(path: str | None, overrides: Sequence[str] = ()) -> CfgNode:
    """The checked and frozen settings of a run.

    Files for facebookresearch/mvit and SlowFast are read too (:mod:`stvit.config.slowfast`); what is said of them, such
    as settings that mean nothing here, is a line each on stderr.

    Args:
        path: a YAML file (``_BASE_`` names files to start from, relative to it), or None for the defaults alone.
        overrides: ``["SOLVER.BASE_LR", "1e-3", ...]`` as on a command line; the last of two equal keys wins there.

    Raises:
        UserError: an unknown or repeated key, a value of the wrong type or an impossible one; the message names
            the file and line (or the command line), the key and what would do.
        OSError: the file cannot be read.
    """
    cfg = default_config()
    given = [*(read_yaml(path) if path is not None else []), *read_overrides(overrides)]
    settings, remarks = translate(given)
    places = apply_settings(cfg, settings)
    check(cfg, places)
    if os.environ.get("RANK", "0") == "0":  # of several processes one is enough
        for remark in remarks:
            print(f"warning: {remark}", file=sys.stderr, flush=True)
    cfg.freeze()
    return cfg
