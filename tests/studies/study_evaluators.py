"""What stands in for a prediction in tests of everything around it; imported by worker processes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path


def _log(word: str) -> None:
    """One line, whole, whoever else writes: the file outlives a killed process."""
    handle = os.open(os.environ["STUDY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{os.getpid()} {word}\n".encode())
    os.close(handle)


def logged(task):
    """Numbers that depend on nothing but the configuration, and a line in the log."""
    text = json.dumps(task["identity"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    key = hashlib.sha256(text.encode()).hexdigest()
    time.sleep(float(os.environ.get("STUDY_SECONDS", "0")))
    digest = hashlib.sha256(key.encode()).digest()
    _log(key)
    if digest[0] < 20:
        return {"status": "infeasible", "reason": f"no room for {digest[1]}", "values": {}}
    return {"status": "ok", "reason": "", "values": {"ttft_s": digest[1] / 7, "tpot_s": digest[2] / 9}}


def buggy(task):
    """What is said of one configuration if moesim has a bug."""
    if task["identity"]["workload"]["concurrency"] == 3:
        return {"status": "error", "reason": "TypeError: a bug", "values": {}}
    return logged(task)


def deadly(task):
    """One configuration kills its process every time, another the first time."""
    concurrency = task["identity"]["workload"]["concurrency"]
    if concurrency == 3:
        _log("deadly")
        os.kill(os.getpid(), 9)
    if concurrency == 5 and "once" not in Path(os.environ["STUDY_LOG"]).read_text():
        _log("once")
        os.kill(os.getpid(), 9)
    return logged(task)
