"""Real routing through a wafer: gains over Base, hops and bytes of every way to share the work out.

python benchmarks/wafer/real_traces.py TRACE --model NAME [--batch N] [--steps N] [--wafer NAME ...]

Copies are forecast from half of the requests, the other half is replayed. Its requests are cut into pieces of
as many tokens as there are steps, so that a batch has `--batch` sequences; copies fill in the first half of
the steps, and the second half is counted.
"""

import argparse
import time

from moesim.cost import ExpertShape
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.policy import split
from moesim.trace import load_trace
from moesim.wafer import POLICIES, Wafer, copy_slots, learn, replay, step_counts, streams


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("trace", nargs="+")
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--batch", type=int, default=4096)
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--wafer", nargs="+", default=["dojo-wafer", "sow-wafer"])
    arguments.add_argument("--share", type=float, default=0.1, help="of a die's memory for copies")
    options = arguments.parse_args()
    model = load_model(options.model)
    moe = model.moe
    shape = ExpertShape(model.hidden, moe.intermediate, moe.matrices, "bf16")
    die = load_hardware("h100-sxm-8").device.processor.efficiency_of("expert_gemm", "bf16")
    for path in options.trace:
        train, rest = split(load_trace(path, shape=model), 0.5)
        forecast = learn(train, rest)
        run = streams(rest, options.batch, options.steps)
        counts = step_counts(run, options.steps)
        steps, layers, experts = counts.shape
        skew = (counts.max(axis=2) / counts.mean(axis=2)).mean()
        print(
            f"\n{path}: {layers} layers x {experts} experts of {shape.weight_bytes / 1e6:.1f} MB, "
            f"top-{rest.top_k}; {options.batch} tokens a step, hottest expert {skew:.2f} times the mean"
        )
        print(
            f"{'wafer':12s} {'policy':20s} {'us/layer':>9s} {'gain':>6s} {'hops':>8s} {'remote GB':>10s}"
            f" {'local GB':>9s} {'written':>8s} {'links':>6s} {'s':>5s}"
        )
        for name in options.wafer:
            wafer = Wafer.of(load_hardware(name), "bf16", die)
            base = None
            ways = [(p, {}) for p in POLICIES]
            ways += [(p, {"predict": "popular"}) for p in ("pred", "allo+pred")]
            ways += [(p, {"exchange": True}) for p in ("base", "ep", "allo")]
            for policy, how in ways:
                part = 1 / wafer.dies if policy == "pred" else 1.0
                slots = copy_slots(wafer, shape, layers, experts, options.share, part)
                began = time.process_time()
                found = replay(
                    wafer, shape, counts, rest.top_k, policy,
                    forecast=forecast, slots=slots, warm=steps // 2, **how,
                )  # fmt: skip
                spent = time.process_time() - began
                base = base or found
                timed = (steps - steps // 2) * layers
                label = " ".join([policy, *(k if v is True else str(v) for k, v in how.items())])
                print(
                    f"{name:12s} {label:20s} {1e6 * found.seconds / timed:9.1f} "
                    f"{base.seconds / found.seconds:6.2f} "
                    f"{found.byte_hops / shape.weight_bytes / timed:8.1f} "
                    f"{found.remote_bytes / timed / 1e9:10.3f} {found.local_bytes / timed / 1e9:9.3f} "
                    f"{found.written_bytes / timed / 1e9:8.3f} {found.link_share:6.2f} {spent:5.1f}"
                )


if __name__ == "__main__":
    main()
