"""Derive the `exchanges` of ``hardware/*.yaml`` from tables and published figures of DeepEP and TensorRT-LLM.

    python benchmarks/exchanges_from_tables.py DATA

DATA holds ``kernels/<gpu>/comm/<library>-<version>/*.parquet`` as ai-dynamo/aiconfigurator publishes them,
``facts/deepep_measured_singlenode.csv`` and ``published/measurements.csv``. Fits minimise the squared error
of the logarithm. What was published for several group sizes is fitted on the smaller ones (EP8 and EP16, for
DeepEP-Ascend normal up to EP32) and judged on the larger.
"""

from __future__ import annotations

import argparse
import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import least_squares

from moesim.cost import direct_traffic, one_way_seconds, two_level_traffic
from moesim.hardware import Hardware, load_hardware
from moesim.hardware.types import Leg, OneWay

HIDDEN, TOP_K, EXPERTS, SHARPNESS = 7168, 8, 256, 4.0
#: A scale of 4 B for every 128 values of FP8; a padded row of scales for INT8 on Ascend.
BYTES = {"dispatch": HIDDEN + HIDDEN // 128 * 4, "combine": HIDDEN * 2}
ASCEND_BYTES = {"dispatch": HIDDEN + 512, "combine": HIDDEN * 2}
#: Share of NVLink that DeepEP's normal kernels reach on H800 over 8 ranks (below).
HOPPER_SHARE = 0.7046
#: Copying SMs that serving engines give to DeepEP's normal kernels by default.
SMS = {"h100_sxm": 20, "h200_sxm": 20, "b200_sxm": 20, "gb200": 20, "b300_sxm": 20, "gb300": 20}
GPUS = {"h100_sxm": 8, "h200_sxm": 8, "b200_sxm": 8, "b300_sxm": 8, "gb200": 4, "gb300": 4}


class Point:
    """One measurement: bytes of the busiest rank, ranks, tokens, seconds."""

    def __init__(self, up, out, ranks, tokens, seconds, sms=math.inf) -> None:
        self.up, self.out, self.ranks, self.tokens, self.seconds, self.sms = (
            up,
            out,
            ranks,
            tokens,
            seconds,
            sms,
        )


def predict(fit: OneWay, hardware: Hardware, points: list[Point], domain: int, per_sm: float = math.inf):
    found = []
    for p in points:
        rate = p.sms * per_sm if math.isfinite(p.sms) else math.inf
        one = replace(fit, up=replace(fit.up, rate_bytes_per_s=min(rate, fit.up.rate_bytes_per_s)))
        found.append(float(one_way_seconds(one, hardware, p.up, p.out, p.ranks, p.tokens, domain)))
    return np.array(found)


def solve(make, start, sets):
    """Parameters, in the logarithm, that fit every set: ``make(x)`` gives a fit for each."""

    def errors(x):
        rows = []
        for (fit, per_sm), (hardware, points, domain) in zip(make(np.exp(x)), sets, strict=True):
            measured = np.array([p.seconds for p in points])
            rows.append(np.log(predict(fit, hardware, points, domain, per_sm) / measured))
        return np.concatenate(rows)

    found = least_squares(errors, np.log(start), loss="soft_l1", f_scale=0.1)
    return np.exp(found.x), np.abs(np.expm1(errors(found.x)))


def of(errors) -> str:
    high = np.quantile(errors, 0.9)
    return f"{len(errors)} points, median {np.median(errors):.1%}, 90 % {high:.1%}, worst {errors.max():.1%}"


# --- DeepEP inside a node, from tables -----------------------------------------------------------------


def table(path: Path) -> dict[str, np.ndarray]:
    read = pq.read_table(path)
    return {name: np.asarray(read[name]) for name in read.column_names}


def single_node(data: Path) -> None:
    for gpu, ranks in GPUS.items():
        hardware = load_hardware(gpu)
        for mode in ("ll", "normal"):
            rows = list(node_rows(data, gpu, mode))
            print(f"# {gpu}, {'low_latency' if mode == 'll' else 'high_throughput'}, {ranks} ranks")
            for way in ("dispatch", "combine"):
                points = []
                for tokens, times, sms in rows:
                    if mode == "ll":
                        vectors = direct_traffic(tokens, ranks, ranks, TOP_K).up
                    else:
                        vectors = two_level_traffic(tokens, ranks, ranks, EXPERTS, TOP_K).up
                    points.append(Point(vectors * BYTES[way], 0.0, ranks, tokens, times[way], sms))
                show(way, hardware, points, ranks, mode, SMS[gpu])


def node_rows(data: Path, gpu: str, mode: str):
    found = sorted((data / "kernels" / gpu / "comm").glob(f"sglang-*/wideep_deepep_{mode}_perf.parquet"))
    if found:
        t = table(found[-1])
        pick = (t["hidden_size"] == HIDDEN) & (t["num_topk"] == TOP_K) & (t["num_experts"] == EXPERTS)
        names = ("avg_t_us", None) if mode == "ll" else ("transmit_us", "sms")
        for i in np.flatnonzero(pick & (t["num_token"] <= 16384)):
            times = {w: float(t[f"{w}_{names[0]}"][i]) * 1e-6 for w in ("dispatch", "combine")}
            yield float(t["num_token"][i]), times, float(t["dispatch_sms"][i]) if names[1] else math.inf
        return
    wanted = "LL" if mode == "ll" else "normal20SM"
    with (data / "facts/deepep_measured_singlenode.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["system"] == gpu and row["mode"].replace("_", "") == wanted:
                times = {w: float(row[f"{w}_us"]) * 1e-6 for w in ("dispatch", "combine")}
                yield float(row["tokens_per_rank"]), times, math.inf if mode == "ll" else 20.0


def show(way, hardware, points, domain, mode, sms) -> None:
    if mode == "ll":
        floor = min(p.seconds for p in points)
        x, errors = solve(
            lambda x: [(OneWay(x[0], SHARPNESS, Leg(x[1], x[2])), math.inf)],
            [floor, floor / 2, 0.5],
            [(hardware, points, domain)],
        )
        floor, leg = f"{x[0] * 1e6:.3g} us", f"latency: {x[1] * 1e6:.3g} us, share: {x[2]:.4f}"
    else:
        # Blackwell's links are never full with the SMs that were tried: their share stays that of Hopper.
        full = hardware.name.startswith("h")

        def make(x):
            leg = Leg(x[0], x[2] if full else HOPPER_SHARE)
            return [(OneWay(0.0, SHARPNESS, leg), x[1])]

        x, errors = solve(make, [30e-6, 16e9, 0.6][: 3 if full else 2], [(hardware, points, domain)])
        share, floor = x[2] if full else HOPPER_SHARE, "0 us"
        leg = f"latency: {x[0] * 1e6:.3g} us, share: {share:.4f}, rate: {x[1] * sms / 1e9:.4g} GB/s"
    print(f"    {way}:")
    print(f"      floor: {floor}")
    print(f"      up: {{{leg}}}")
    print(f"      residual: {np.median(errors):.3g}  # {of(errors)}")


# --- published for several sizes ------------------------------------------------------------------------


def published(
    data: Path, system: str, metric: str, grade: str = "P"
) -> list[tuple[str, int, float, float, str]]:
    """Way, ranks, tokens per rank, value, precision of the rows of a system, primary ones by default."""
    found = []
    with (data / "published/measurements.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["grade"] == grade and row["system"] == system and row["metric"] == metric:
                tokens = float(row["batch"].split()[0])
                found.append(
                    (row["phase"], int(row["num_devices"]), tokens, float(row["value"]), row["precision"])
                )
    return found


def judge(title, fits, hardware, points, domain, small) -> None:
    for way, fit in fits.items():
        for name, test in (("fitted", True), ("judged", False)):
            part = [p for p in points[way] if (p.ranks <= small) is test]
            if part:
                errors = np.abs(predict(fit, hardware, part, domain) / [p.seconds for p in part] - 1)
                print(f"#   {title} {way}, {name}: {of(errors)}")


def hopper_ib(data: Path) -> None:
    hardware = load_hardware("h800-sxm-8", nodes=32)
    points = {"dispatch": [], "combine": []}
    for way, ranks, tokens, value, _ in published(data, "DeepEP V1 low-latency", "latency"):
        sent = direct_traffic(tokens, ranks, 8, TOP_K)
        points[way].append(Point(sent.up * BYTES[way], sent.out * BYTES[way], ranks, tokens, value * 1e-6))

    def fit(x):
        return OneWay(x[0], math.inf, Leg(x[0], x[1]), Leg(x[0], x[2]))

    small = {way: [p for p in part if p.ranks <= 16] for way, part in points.items()}
    sets = [(hardware, small[way], 8) for way in small]
    x, errors = solve(lambda x: [(fit(x), math.inf)] * 2, [20e-6, 0.7, 0.8], sets)
    print(
        f"# h800, low_latency: latency {x[0] * 1e6:.3g} us, up {x[1]:.4f}, out {x[2]:.4f};"
        f" fitted: {of(errors)}"
    )
    judge("DeepEP V1 low-latency", {way: fit(x) for way in points}, hardware, points, 8, 16)
    shares = []
    for way, ranks, tokens, value, _ in published(data, "DeepEP V1 normal", "bottleneck_bandwidth"):
        if ranks == 8:
            sent = two_level_traffic(tokens, 8, 8, EXPERTS, TOP_K)
            seconds = sent.total * BYTES[way] / (value * 1e9)
            rate = sent.up * BYTES[way] / (seconds - x[0])
            shares.append(rate / hardware.scale_up.bandwidth_bytes_per_s)
    print(f"# h800, high_throughput: up {np.mean(shares):.4f}, from EP8; latency and out as low_latency")
    best = OneWay(x[0], math.inf, Leg(x[0], float(np.mean(shares))), Leg(x[0], x[2]))
    for way, ranks, tokens, value, _ in published(data, "DeepEP V1 normal", "bottleneck_bandwidth"):
        sent = two_level_traffic(tokens, ranks, 8, EXPERTS, TOP_K, 4)
        seconds = float(
            one_way_seconds(best, hardware, sent.up * BYTES[way], sent.out * BYTES[way], ranks, tokens, 8)
        )
        counted = sent.total if ranks == 8 else sent.out * ranks / (ranks - 8)
        print(
            f"#   DeepEP V1 normal {way} EP{ranks}: "
            f"{counted * BYTES[way] / seconds / 1e9:.1f} of {value:g} GB/s"
        )


def one_sided(data: Path) -> None:
    hardware = load_hardware("gb200-nvl72")
    points = {"dispatch": [], "combine": []}
    for way, ranks, tokens, value, precision in published(data, "TRT-LLM NVLinkOneSided", "latency"):
        if precision == "BF16":
            sent = direct_traffic(tokens, ranks, 72, min(TOP_K, ranks))
            points[way].append(Point(sent.up * HIDDEN * 2, 0.0, ranks, tokens, value * 1e-6))
    fits = {}
    for way, part in points.items():

        def make(x):
            return [(OneWay(x[0], SHARPNESS, Leg(x[1], x[2], spread=x[3])), math.inf)]

        small = [p for p in part if p.ranks <= 16]
        x, errors = solve(make, [20e-6, 10e-6, 0.7, 0.03], [(hardware, small, 72)])
        fits[way] = make(x)[0][0]
        print(
            f"# gb200-nvl72, one-sided {way}: floor {x[0] * 1e6:.3g} us, latency {x[1] * 1e6:.3g} us,"
            f" share {x[2]:.4f}, spread {x[3]:.3g}; fitted: {of(errors)}"
        )
    judge("one-sided", fits, hardware, points, 72, 16)


def ascend(data: Path) -> None:
    hardware = load_hardware("cloudmatrix384")
    for system, metric, small in (
        ("DeepEP-Ascend low-latency", "latency", 16),
        ("DeepEP-Ascend normal", "bottleneck_bandwidth", 32),
        # Four rows, two of each way, of notes on a paper: all are fitted, and nothing is left to judge by.
        ("CANN EP", "latency", 256),
    ):
        points = {"dispatch": [], "combine": []}
        grade = "S" if system == "CANN EP" else "P"
        for way, ranks, tokens, value, _ in published(data, system, metric, grade):
            sent, size = direct_traffic(tokens, ranks, 768, TOP_K), ASCEND_BYTES[way]
            seconds = value * 1e-6 if metric == "latency" else sent.total * size / (value * 1e9)
            points[way].append(Point(sent.up * size, 0.0, ranks, tokens, seconds))
        part = {way: [p for p in found if p.ranks <= small] for way, found in points.items()}
        sets = [(hardware, found, 768) for found in part.values()]
        share = hardware.scale_up.efficiency
        low = metric == "latency"

        def make(x, low=low, share=share):
            # Low latency: each way its own latency. Normal: no latency that would show, a share for each.
            ways = [Leg(x[i], share, scan_s=x[2]) if low else Leg(0.0, x[i], scan_s=x[2]) for i in (0, 1)]
            return [(OneWay(0.0, SHARPNESS, leg), math.inf) for leg in ways]

        x, errors = solve(make, [60e-6, 30e-6, 2e-9] if low else [0.6, 0.6, 2e-9], sets)
        print(
            f"# cloudmatrix384, {system}: {x[0]:.4g}, {x[1]:.4g}, scan {x[2] * 1e9:.3g} ns;"
            f" fitted: {of(errors)}"
        )
        fits = dict(zip(points, (fit for fit, _ in make(x)), strict=True))
        judge(system, fits, hardware, points, 768, small)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    folder = parser.parse_args().data
    hopper_ib(folder)
    one_sided(folder)
    ascend(folder)
    single_node(folder)
