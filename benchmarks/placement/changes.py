"""What changes of a plan move, how long copies take, and what losing ranks takes.

    python benchmarks/placement/changes.py FOLDER

FOLDER holds DeepSeek-V3 load counts, one workload per file, such as those attached to
github.com/sgl-project/sglang/issues/6017. 288 slots on 32 ranks. ``exchanges``: from the best plan for one
load to another. ``copies``: a full change between greedy plans of two loads. ``losses``: from a greedy plan.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import moesim as ms
from moesim.errors import InfeasibleError
from moesim.placement import Problem, evaluate, solve
from moesim.placement.migration import aligned, moves
from moesim.placement.solvers.exchange import exchanges
from moesim.rebalancing import StepPricer, restored

FROM, TO = "decode_in1000out1000", "prefill_in1024"
MACHINES = (("h200-sxm-8", 4), ("gb200-nvl72", 8))


def show_exchanges(loads: dict[str, np.ndarray]) -> None:
    old = solve(Problem(loads[FROM], 32, 32)).expert_map
    new = aligned(solve(Problem(loads[TO], 32, 32)).expert_map, old)
    print(f"{'exchanges':30} {'copies per layer':>17} {'max/mean':>9}")

    def show(name, plan):
        print(f"{name:30} {moves(plan, old).experts.mean():17.1f} {evaluate(plan, loads[TO]).mean:9.4f}")

    show("the old plan", old)
    show("a new search, relabelled", new)
    exchanges(loads[TO][None, :1], 32, old.physical_to_logical[:1], most=2)  # compile before the clock runs
    started = time.process_time()
    path = exchanges(loads[TO][None], 32, old.physical_to_logical, most=128)
    seconds = time.process_time() - started
    for most in (8, 32, 64, 128):
        table = path.at(path.within(most))
        show(f"exchanges, at most {most} moves", ms.ExpertMap(table, 256, 32))
    print(f"{seconds:.2f} s of the processor for the whole path\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    loads = {p.stem: ms.load_trace(p).load_counts().totals for p in sorted(folder.glob("*.json"))}
    show_exchanges(loads)
    model = ms.load_model("deepseek-v3")
    here, there = (solve(Problem(loads[n], 32, 32), "greedy").expert_map for n in (FROM, TO))
    for name, nodes in MACHINES:
        pricer = StepPricer(model, ms.load_hardware(name, nodes=nodes), 32)
        change = moves(there, here, pricer.expert_bytes, pricer.domain)
        seconds = pricer.copy_seconds(change).sum()
        print(f"copies: {name}, {change.total_bytes / 1e9:.0f} GB in {seconds:.3f} s")
    print()
    pricer = StepPricer(model, ms.load_hardware(MACHINES[0][0], nodes=MACHINES[0][1]), 32)
    for lost in ([3], list(range(8))):
        for room in (9, 12):
            title = f"losses: {len(lost)} rank(s), {room} slots per rank"
            try:
                found = restored(here, loads[FROM], pricer, lost=lost, slots_per_rank=room)
                slow = restored(
                    here, loads[FROM], pricer, lost=lost, slots_per_rank=room, storage_bytes_per_s=7e9
                )
            except InfeasibleError as error:
                print(title, error)
                continue
            print(title, found.to_dict(), "from storage:", slow.to_dict())


if __name__ == "__main__":
    main()
