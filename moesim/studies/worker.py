"""A process that evaluates configurations: tasks come in as lines of JSON, results go out as such.

It ends when its input does, which is also when whoever started it is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: What evaluates a task, unless something else is asked for: module and function.
EVALUATOR = "moesim.studies.evaluate:evaluate"
READY = "ready"

Evaluator = Callable[[Mapping[str, Any]], dict[str, Any]]


def evaluator_of(name: str) -> Evaluator:
    """The function behind ``module:function``."""
    module, _, function = name.partition(":")
    found: Evaluator = getattr(importlib.import_module(module), function)
    return found


def timed(evaluate: Evaluator, task: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the seconds it took."""
    start = time.perf_counter()
    return {**evaluate(task), "seconds": time.perf_counter() - start}


def evaluate_all(name: str, tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Evaluate tasks one after the other; runs on a worker of a cluster."""
    evaluate = evaluator_of(name)
    return [timed(evaluate, task) for task in tasks]


def main(name: str) -> None:
    """Serve until there is no more input."""
    # Whoever started the process decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever prints is not to end up among the results.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    evaluate = evaluator_of(name)
    try:
        out.write(f'"{READY}"\n')
        out.flush()
        for line in sys.stdin:
            for number, task in json.loads(line):
                out.write(json.dumps([number, timed(evaluate, task)]) + "\n")
                out.flush()
    except BrokenPipeError:
        # Nobody is left to hear the result.
        os._exit(1)
