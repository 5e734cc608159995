"""Runs tools/main.py in processes of their own, forked from one that has imported stvit already.

Each line of stdin is a request, ``{"arguments": [...], "log": path, "blow": [function, call, signal] | null}``;
each line of stdout the exit code of its process (negative: killed by that signal). The blow is a signal that the
process gets at the n-th call of a function, ``module:name`` or ``module:Class.name``.
"""

import functools
import json
import os
import runpy
import sys
from pathlib import Path

import sklearn.datasets  # noqa: F401  (forking saves the seconds of these imports)
import torch

import stvit.engine.run  # noqa: F401

TOOL = Path(__file__).parents[2] / "tools" / "main.py"


def arm(function, call, signum):
    module_name, _, path = function.partition(":")
    *classes, name = path.split(".")
    owner = functools.reduce(getattr, classes, sys.modules[module_name])
    original, calls = getattr(owner, name), iter(range(1, 10**9))

    def armed(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signum)
        return original(*args, **kwargs)

    setattr(owner, name, armed)


def tool(request):
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if request["blow"]:
        arm(*request["blow"])
    sys.argv = [str(TOOL), *request["arguments"]]
    runpy.run_path(str(TOOL), run_name="__main__")


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        tool(json.loads(line))
        sys.exit("tools/main.py must leave by sys.exit")
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
