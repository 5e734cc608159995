"""Runs tools/main.py in processes of their own, forked from one that has imported stvit already.

Each line of stdin is a request: ``{"arguments": [...], "log": path, "blow": [function, call, signal, rank] | null,
"processes": n, "script": path | null}``; each line of stdout its exit code (negative: killed by that signal). The blow
is a signal that the process gets at the n-th call of a function, ``module:name`` or ``module:Class.name``. Several
processes find their places in the environment, as from torchrun; the first that fails ends them all and gives the code.
"""

import functools
import json
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401  (forking saves the seconds of these imports)
import sklearn.datasets  # noqa: F401
import torch

import stvit.engine.run  # noqa: F401
from stvit.engine.distributed import PLACE

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


def tool(request, rank, port):
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if request["processes"] > 1:
        place = (rank, rank, request["processes"], request["processes"], "127.0.0.1", port)
        os.environ.update(zip(PLACE, map(str, place), strict=True))
    if request["blow"] and request["blow"][-1] == rank:
        arm(*request["blow"][:-1])
    script = request["script"] or str(TOOL)
    sys.argv = [script, *request["arguments"]]
    runpy.run_path(script, run_name="__main__")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(request):
    Path(request["log"]).write_text("")
    port, running, first = free_port(), set(), 0
    for rank in range(request["processes"]):
        pid = os.fork()
        if pid == 0:
            tool(request, rank, port)
            sys.exit(0 if request["script"] else "tools/main.py must leave by sys.exit")
        running.add(pid)
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG if first else 0)
        if pid == 0:
            for other in running:
                os.kill(other, signal.SIGTERM)
            time.sleep(0.2)
            continue
        running.remove(pid)
        first = first or os.waitstatus_to_exitcode(status)
    return first


for line in sys.stdin:
    print(serve(json.loads(line)), flush=True)
