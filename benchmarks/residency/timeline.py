"""Operations per second of a timeline: the repeated pattern, and SimPy's resources, side by side.

    pip install simpy
    python benchmarks/residency/timeline.py

48 layers of 8 operations on 8 resources, each waiting for the operation before it and for one of the layer
before, step after step. SimPy runs the same operations as processes that request a resource, wait and release
it. Seconds are those of the processor, best of several.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from moesim.offload.timeline import Pattern

LAYERS, RESOURCES = 48, 8


def pattern() -> Pattern:
    """One step: a chain through the resources of each layer, and a tie to the layer before."""
    resource = np.tile(np.arange(RESOURCES), LAYERS)
    return Pattern(resource, np.tile([[1, RESOURCES]], (LAYERS * RESOURCES, 1)))


def best(run, tries: int = 5) -> float:
    """Least processor seconds of several tries."""
    found = []
    for _ in range(tries):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found)


def simpy_ends(seconds: np.ndarray) -> float:
    """The same in SimPy: when the last operation is done."""
    import simpy

    env = simpy.Environment()
    resources = [simpy.Resource(env) for _ in range(RESOURCES)]
    operations = seconds.shape[1]
    done = {}

    def operation(number, resource, spent):
        for distance in (1, RESOURCES):
            if number >= distance and not done[number - distance].processed:
                yield done[number - distance]
        with resources[resource].request() as request:
            yield request
            yield env.timeout(spent)

    for number, spent in enumerate(seconds.ravel()):
        done[number] = env.process(operation(number, number % operations % RESOURCES, spent))
    env.run()
    return env.now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    one = pattern()
    operations = LAYERS * RESOURCES
    seconds = rng.random((arguments.steps, operations))
    one.ends(seconds[:2])
    ours = arguments.steps * operations / best(lambda: one.ends(seconds))
    print(f"{'timeline':34} {'operations':>12} {'M op/s':>9}")
    print(f"{'pattern, max-plus':34} {arguments.steps * operations:12,} {ours / 1e6:9.1f}")
    try:
        import simpy  # noqa: F401
    except ImportError:
        print("SimPy is not installed: pip install simpy")
        return
    few = seconds[:100]
    assert abs(simpy_ends(few) - one.ends(few)[-1]) < 1e-6, "the two disagree"
    theirs = few.size / best(lambda: simpy_ends(few), 3)
    print(f"{'SimPy, request, timeout, release':34} {few.size:12,} {theirs / 1e6:9.3f}")
    print(f"{'ratio':34} {'':12} {ours / theirs:9.0f}")


if __name__ == "__main__":
    main()
