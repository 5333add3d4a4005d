"""Everything that the reference path must show on a GPU, by one command in less than ten minutes.

    pip install 'moesim[cuda]'            # torch beside it adds the baselines
    python benchmarks/reference/gpu.py    # results under reports/<machine>/

Steps: kernels against float64, plainly and under compute-sanitizer; ceilings; grouped products of Mixtral's
shape beside torch and cuBLAS; a layer of 128 experts; bandwidth of permutation and weighted sum; `moesim
calibrate cuda`; `moesim validate reference --device cuda`. Each step writes a file when it is done, and is
not run again while that file is there. A figure is printed beside what it must reach and what is aimed at.

    python benchmarks/reference/gpu.py --emulated --out ../dry    # tiny, on the host: times mean nothing
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moesim.calibrate.reference.cuda_ceilings import ceilings
from moesim.calibrate.reference.cuda_file import slug
from moesim.calibrate.reference.cuda_set import TINY, Sizes
from moesim.errors import MoesimError
from moesim.files import atomic_write
from moesim.reference import machine
from moesim.reference.cuda import CudaRunner, baselines
from moesim.reference.cuda.backend import Backend, open_backend
from moesim.reference.cuda.check import SHAPES, check_kernels, check_paths
from moesim.reference.cuda.variants import bounds
from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import route

ROOT = Path(__file__).resolve().parents[2]
#: Seconds that one tool of compute-sanitizer may take; it slows kernels down a hundredfold.
SANITIZER_S = 60
TOOLS = ("memcheck", "racecheck", "synccheck")
#: Runs of a layer; the median counts.
RUNS = 20

MIXTRAL = LayerShape("mixtral", 8, 2, 4096, 14336)
FINE = LayerShape("128 experts", 128, 8, 2816, 704)
MOVES = LayerShape("rows", 64, 8, 4096, 64)
#: Microseconds of the layer of 128 experts by tokens: what vLLM's tuned Triton kernels take on an H200
#: (vllm-project/vllm PR 44818), and what is aimed at.
LAYER_US = {4096: (1190.0, 850.0), 128: (396.0, 375.0), 1: (185.0, 45.0)}


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Parameters
    ----------
    name, unit
        What it is.
    value
        Measured; None where it could not be, and `note` says why.
    must, aim
        Limits: from above for times and errors (``most``), else from below; None without.
    most
        Whether smaller is better.
    note
        What else there is to say.
    judged
        Whether limits mean anything: not for times of an emulation.
    """

    name: str
    value: float | None
    unit: str
    must: float | None = None
    aim: float | None = None
    most: bool = False
    note: str = ""
    judged: bool = True

    def met(self, limit: float | None) -> str:
        """``met``, ``NOT met``, or ``-`` where there is nothing to say."""
        if limit is None or self.value is None or not self.judged:
            return "-"
        good = self.value <= limit if self.most else self.value >= limit
        return "met" if good else "NOT met"


@dataclass(frozen=True)
class Plan:
    """How large the steps are.

    Parameters
    ----------
    backend
        The device.
    out
        Folder of the results.
    folder
        Name below ``reports`` for `moesim validate reference --publish`.
    traces
        Recordings for it.
    """

    backend: Backend
    out: Path
    folder: str
    traces: Sequence[Path] = ()

    @property
    def tiny(self) -> bool:
        """Whether the host plays the device."""
        return self.backend.emulated

    def shape(self, shape: LayerShape) -> LayerShape:
        """A layer, or a tiny one like it."""
        return LayerShape(shape.name, 8, shape.top_k, 128, 64) if self.tiny else shape

    def tokens(self, number: int) -> int:
        """Tokens, or a few."""
        return min(number, 16) if self.tiny else number


def layer_s(plan: Plan, shape: LayerShape, tokens: int) -> tuple[float, dict[str, float], np.ndarray]:
    """Median seconds of a layer and of its parts, and tokens of each expert."""
    case = Case(plan.shape(shape), plan.tokens(tokens), dtype="bf16")
    with CudaRunner(backend=plan.backend, alike=True) as runner:
        prepared = runner.prepare(case, route(case))
        made = [prepared.run() for _ in range(2 if plan.tiny else RUNS)]
        parts = {name: float(np.median([one.parts[name] for one in made])) for name in made[0].parts}
        counts = np.array(prepared.counts)
        prepared.close()
    return float(np.median([one.seconds for one in made])), parts, counts


def kernels(plan: Plan, *, few: bool = False) -> list[Figure]:
    """Every kernel against float64, and every way to run a layer against the plainest."""
    chosen = [variant for variant, _ in bounds(plan.backend.capability)]
    some = {"shapes": SHAPES[1:], "batches": ((7, "zipf:1.2"),), "variants": chosen[::3]}
    checks = check_kernels(plan.backend, **(some if few or plan.tiny else {}))
    if not few and not plan.tiny:
        checks += check_paths(plan.backend)
    return [Figure(f"error of {c.name}", c.error, "", must=c.limit, most=True) for c in checks]


def sanitizer(plan: Plan) -> list[Figure]:
    """The same under the tools of compute-sanitizer: errors that each found."""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    made = []
    for tool in TOOLS:
        name, why = f"errors found by {tool}", ""
        if plan.tiny or program is None:
            why = "emulated" if plan.tiny else "compute-sanitizer is not installed"
            made.append(Figure(name, None, "", must=0.0, most=True, note=why))
            continue
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--few"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SANITIZER_S, check=False, cwd=ROOT
            )
        except subprocess.TimeoutExpired:
            made.append(Figure(name, None, "", must=0.0, most=True, note=f"not done in {SANITIZER_S} s"))
            continue
        (plan.out / f"sanitizer-{tool}.txt").write_text(done.stdout + done.stderr)
        found = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or "RACECHECK" in line]
        value = 0.0 if done.returncode == 0 else 1.0
        made.append(Figure(name, value, "", must=0.0, most=True, note=found[-1].strip("= ") if found else ""))
    return made


def limits(plan: Plan) -> list[Figure]:
    """What the device does at most."""
    found = ceilings(
        plan.backend, TINY if plan.tiny else Sizes(memory_bytes=(1 << 30,), transfer_bytes=(1 << 20, 1 << 27))
    )
    rows = [
        Figure(f"memory, {name}", max(rate for _, rate in points) / 1e12, "TB/s")
        for name, points in found.memory.items()
    ]
    rows += [Figure(f"kernel, {name}", s * 1e6, "us") for name, s in found.launch_s.items()]
    why = "emulated" if plan.tiny else baselines.absent()
    flops = None if why else float(baselines.cublas().flops_per_s) / 1e12
    return [*rows, Figure("cuBLAS 8192^3", flops, "TFLOP/s", note=why)]


def grouped(plan: Plan) -> list[Figure]:
    """Grouped products of Mixtral's shape, beside torch on the same rows and cuBLAS."""
    shape, tokens = plan.shape(MIXTRAL), plan.tokens(4096)
    _, parts, counts = layer_s(plan, MIXTRAL, 4096)
    why = "emulated" if plan.tiny else baselines.absent()
    ceiling = None if why else baselines.cublas().flops_per_s
    rows = []
    for part, n, k in (("up", 2 * shape.width, shape.hidden), ("down", shape.hidden, shape.width)):
        ours = 2.0 * tokens * shape.top_k * n * k / parts[part] / 1e12
        theirs = None if why else float(baselines.grouped(counts.astype(np.int32), n, k).flops_per_s) / 1e12
        aim = None if ceiling is None else 0.85 * float(ceiling) / 1e12
        rows += [
            Figure(f"Mixtral, {part}", ours, "TFLOP/s", must=theirs, aim=aim, note=why),
            Figure(f"Mixtral, {part}, torch", theirs, "TFLOP/s", note=why),
        ]
    return rows


def fine(plan: Plan) -> list[Figure]:
    """The layer of 128 experts, as a graph."""
    rows = []
    for tokens, (must, aim) in LAYER_US.items():
        seconds, parts, _ = layer_s(plan, FINE, tokens)
        split = ", ".join(f"{name} {s * 1e6:.0f}" for name, s in parts.items())
        name = f"{plan.shape(FINE).num_experts} experts, {plan.tokens(tokens):,} tokens"
        rows.append(Figure(name, seconds * 1e6, "us", must, aim, most=True, note=split))
    return rows


def moves(plan: Plan) -> list[Figure]:
    """Bandwidth of sorting rows and of adding them up, beside that of a copy."""
    shape, tokens = plan.shape(MOVES), plan.tokens(8192)
    _, parts, _ = layer_s(plan, MOVES, 8192)
    pairs, row = tokens * shape.top_k, 2.0 * shape.hidden
    sizes = Sizes(memory_bytes=(1 << 30,), transfer_bytes=(1 << 20,), launches=2)
    copy = max(rate for _, rate in ceilings(plan.backend, TINY if plan.tiny else sizes).memory["copy"])
    # A row is read once for all its experts, as it stays in the cache, and written once for each.
    moved = {"permute": (tokens + pairs) * row, "weighted_sum": (pairs + tokens) * row}
    return [
        Figure(f"{name}, share of a copy's bandwidth", size / parts[name] / copy, "", 0.70, 0.85)
        for name, size in moved.items()
    ]


def calibrated(plan: Plan) -> list[Figure]:
    """`moesim calibrate cuda`."""
    path = plan.out / "gpu.yaml"
    words = ["calibrate", "cuda", "-o", str(path), "--json", *(["--emulated"] if plan.tiny else [])]
    start = time.monotonic()
    document = _moesim(words, plan.out / "calibrate.json")
    taken, left_out = time.monotonic() - start, document["left_out"]
    return [
        Figure("calibration", taken, "s", must=300.0, most=True, note=document["verdict"]),
        Figure("A/A noise, median", document["floor"]["median"], "", must=0.10, most=True),
        Figure("products left out, median error", left_out["products"]["median"], "", most=True),
    ]


def validated(plan: Plan) -> list[Figure]:
    """`moesim validate reference --device cuda`."""
    limits = {"median_abs_error": 0.05, "p95_abs_error": 0.10, "median_signed_error": 0.02}
    if plan.tiny:
        return [Figure(name, None, "", must, most=True, note="emulated") for name, must in limits.items()]
    words = ["validate", "reference", "--device", "cuda", "--hardware", str(plan.out / "gpu.yaml"), "--json"]
    words += ["--publish", "--reports", str(plan.out.parent), "--machine", plan.folder]
    words += [word for path in plan.traces for word in ("--traces", str(path.resolve()))]
    summary = _moesim(words, plan.out / "validate.json", codes=(0, 1))["summary"]
    rows = [Figure(name, abs(summary[name]), "", must, most=True) for name, must in limits.items()]
    return [*rows, Figure("runs", summary["n"], "", must=100.0)]


def _moesim(words: Sequence[str], kept: Path, codes: tuple[int, ...] = (0,)) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "moesim", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode not in codes:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MoesimError(f"moesim {' '.join(words[:2])}: exit code {done.returncode}: {last}")
    kept.write_text(done.stdout)
    return json.loads(done.stdout)


STEPS: dict[str, Callable[[Plan], list[Figure]]] = {
    "kernels": kernels,
    "sanitizer": sanitizer,
    "limits": limits,
    "grouped": grouped,
    "layer-128": fine,
    "moves": moves,
    "calibrate": calibrated,
    "validate": validated,
}


def run_step(plan: Plan, name: str) -> list[Figure]:
    """Figures of a step: those of its file, or run now. What failed is told, and not kept."""
    path = plan.out / f"step-{name}.json"
    if path.exists():
        print(f"{name}: kept from {path}")
        return [Figure(**figure) for figure in json.loads(path.read_text())["figures"]]
    start = time.monotonic()
    try:
        figures = STEPS[name](plan)
        if plan.tiny and name != "kernels":
            figures = [replace(figure, judged=False) for figure in figures]
    except (MoesimError, RuntimeError, ValueError, OSError) as error:
        return [Figure(name, None, "", note=f"FAILED: {error}")]
    document = {
        "emulated": plan.tiny,
        "seconds": time.monotonic() - start,
        "figures": [asdict(f) for f in figures],
    }
    with atomic_write(path) as stream:
        stream.write(json.dumps(document, indent=1))  # type: ignore[arg-type]
    return figures


def table(figures: Sequence[Figure]) -> str:
    """Figures beside what they must reach, as Markdown."""
    lines = ["| figure | measured | must | | aim | | |", "|---|---|---|---|---|---|---|"]
    for f in figures:
        shown = [("-" if x is None else f"{x:.4g} {f.unit}".strip()) for x in (f.value, f.must, f.aim)]
        cells = (f.name, shown[0], shown[1], f.met(f.must), shown[2], f.met(f.aim), f.note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Run all steps; exit code 1 if a figure misses what it must reach, or a step failed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, help="folder of the results; reports/<machine> if not given")
    parser.add_argument("--emulated", action="store_true", help="tiny, on the host; needs --out")
    parser.add_argument(
        "--traces", nargs="+", type=Path, default=[], help="recorded routing to validate with"
    )
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--few", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    reports = (ROOT / "reports").resolve()
    if asked.emulated and (asked.out is None or reports in (asked.out / "x").resolve().parents):
        parser.error("--emulated measures nothing: give --out, a folder that is not below reports")
    try:
        backend = open_backend(emulated=asked.emulated)
    except MoesimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = slug(backend.name.removeprefix("NVIDIA "))
    out = asked.out or reports / folder
    plan = Plan(backend, out, out.name, asked.traces)
    if asked.few:
        return int(any(figure.met(figure.must) == "NOT met" for figure in kernels(plan, few=True)))
    out.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    for name in asked.steps:
        made = run_step(plan, name)
        print(table(made), flush=True)
        figures += made
    backend.close()
    label = (
        "EMULATED on the host, tiny shapes: nothing here is a measurement of a GPU\n\n" if plan.tiny else ""
    )
    command = " ".join(
        ["python benchmarks/reference/gpu.py", *(words if words is not None else sys.argv[1:])]
    )
    text = f"# {backend.name}\n\n{label}`{command}`\n\n{table(figures)}\n"
    (out / "figures.md").write_text(text)
    (out / "machine.json").write_text(json.dumps(machine.state(), indent=1))
    missed = [f for f in figures if f.met(f.must) == "NOT met" or f.note.startswith("FAILED")]
    print(f"\n{label}{len(figures)} figures, {len(missed)} missed or failed; {out / 'figures.md'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
