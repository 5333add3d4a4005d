"""The best policy of every throughput system on every small box.

    python benchmarks/throughput/boxes.py [--model mixtral-8x7b] [--prompt 418] [--output 128]

Tokens per second count generated tokens over prefill and decode; seconds are of the processor.
"""

from __future__ import annotations

import argparse
import time

from moesim import load_hardware, load_model
from moesim.errors import InfeasibleError
from moesim.throughput import SYSTEMS, Workload, best_policy

BOXES = (
    "t4-24core",
    "l4-24core",
    "rtx-3090-workstation",
    "rtx-4090-64core",
    "a5000-epyc-512gb",
    "a40-xeon-8380",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mixtral-8x7b")
    parser.add_argument("--prompt", type=int, default=418)
    parser.add_argument("--output", type=int, default=128)
    arguments = parser.parse_args()
    model, work = load_model(arguments.model), Workload(arguments.prompt, arguments.output)
    for system in SYSTEMS:  # compile before the clock runs
        best_policy(system, model, load_hardware("a40"), work)
    columns = f"{'batch':>6} {'micro':>6} {'tokens/s':>9} {'decode':>8} {'prefill':>8}  bound by  seconds"
    print(f"{'box':22} {'system':15} {columns}")
    for box in BOXES:
        hardware = load_hardware(box)
        for system in SYSTEMS:
            started = time.process_time()
            try:
                plan = best_policy(system, model, hardware, work)
            except InfeasibleError as error:
                print(f"{box:22} {system:15} {error}")
                continue
            seconds = time.process_time() - started
            tight = min(plan.bounds, key=lambda name: plan.bounds[name])
            print(
                f"{box:22} {system:15} {plan.policy['batch']:6} {plan.policy.get('micro_batch', '-'):>6}"
                f" {plan.tokens_per_s:9.1f} {plan.decode_tokens_per_s:8.1f} {plan.prefill_tokens_per_s:8.0f}"
                f"  {tight:8} {seconds:8.2f}"
            )


if __name__ == "__main__":
    main()
