"""How long, and in how much memory, a hostile plan file is refused: each in a process of its own.

Run from the repository root: ``python benchmarks/placement/hostile_plans.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from moesim.errors import ConfigError
from moesim.model import load_model
from moesim.placement import check_plan

MANY = 700_000


def cases():
    """Content by name."""
    return {
        "JSON: empty lists": b"[" + b"[]," * MANY + b"[]]",
        "JSON: whole numbers": b"[" + b"99999999," * MANY + b"1]",
        "JSON: numbers of 4000 digits": b"[[" + (b"9" * 4000 + b",") * 4000 + b"1]]",
        "JSON: names": b'{"layer_list":[],' + b",".join(b'"k%d":0' % i for i in range(MANY)) + b"}",
        "JSON: nested": b"[" * 1_000_000,
        "JSON: one long text": b'["' + b"x" * (16 << 20) + b'"]',
        "JSON: rows of junk": b"[" + b",".join([b'["x","y",null,-1]'] * 100_000) + b"]",
        "JSON: a plan of -1": b'{"physical_to_logical_map":['
        + b",".join([b"[" + b"-1," * 7000 + b"-1]"] * 61)
        + b"]}",
        "YAML: one number per line": b"num_slots: 8\ninitial_global_assignments:\n  3:\n"
        + b"  - 1\n" * 140_000,
        "YAML: texts": b"num_slots: [" + b"a," * 140_000 + b"a]",
        "YAML: lists": b"num_slots: [" + b"[1]," * 300_000 + b"[1]]",
        "YAML: one long word": b"num_slots: " + b"x" * (8 << 20),
        "YAML: escapes": b'num_slots: "' + b"x\\n" * (2 << 20) + b'"',
        "YAML: blanks": b"num_slots: " + b" " * (8 << 20) + b"8",
        "YAML: colons": b"num_slots: 8\n" + b"a:" * (2 << 20),
        "YAML: nested": b"num_slots: " + b"{" * 100_000,
        "YAML: aliases": b"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nnum_slots: [*b,*b,*b]\n",
    }


def peak_mb():
    """Most memory this process has had resident; Linux."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def one(path: str) -> str:
    """Check one file against DeepSeek-V3 on 32 ranks: seconds, memory, answer."""
    model = load_model("deepseek-v3")
    before, started = peak_mb(), time.process_time()
    try:
        answer = f"{len(check_plan(path, model, 32).faults)} faults"
    except ConfigError as error:
        answer = f"refused: {error.faults[0].message}"
    seconds = time.process_time() - started
    return f"{seconds:8.2f} {peak_mb() - before:8.0f}  {answer}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", help="check this file alone")
    asked = parser.parse_args()
    if asked.file:
        print(one(asked.file))
        return
    print(f"{'file':30s} {'MB':>6s} {'CPU s':>8s} {'MB more':>8s}  answer")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in cases().items():
            path = Path(folder) / "plan.json"
            path.write_bytes(content)
            done = subprocess.run(
                [sys.executable, __file__, path], capture_output=True, text=True, check=True
            )
            print(f"{name:30s} {len(content) / 1e6:6.1f} {done.stdout.rstrip()}", flush=True)


if __name__ == "__main__":
    main()
