"""Published exchanges of tokens against the links of their machines.

    python benchmarks/fabric/comms_rows.py DATA

DATA holds ``published/measurements.csv`` and ``facts/nccl_alpha_beta_fits.csv``. Routing is even, as in all
of these measurements. Three predictions of each row:

``links``    latency and busiest link of the machine's network (`moesim.fabric`), at the reachable bandwidth
             of its file; nothing is fitted to any row. Software that waits, searches and signals is left out,
             so that at full bandwidth it is a lower bound.
``start``    the same plus one number for each library and way: the median of what is missing on the small
             groups (EP8 and EP16; DeepEP normal and CANN: EP8). Judged on the larger groups.
``exchange`` the measured form that predictions use (docs/collectives.md), fitted on the same small groups.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from moesim.cost import (
    HIGH_THROUGHPUT,
    LOW_LATENCY,
    direct_traffic,
    exchange_of,
    one_way_seconds,
    two_level_traffic,
)
from moesim.fabric import contention_seconds, inside_lines, network_of
from moesim.hardware import load_hardware

HIDDEN, TOP_K, EXPERTS, NODE_LIMIT = 7168, 8, 256, 4


@dataclass(frozen=True)
class Library:
    """Machine, mode of the exchange, what a printed bandwidth counts, and groups the start is fitted to."""

    hardware: str
    mode: str
    count: str
    small: int
    backend: str = ""


LIBRARIES = {
    "TRT-LLM NVLinkOneSided": Library("gb200-nvl72", LOW_LATENCY, "once", 16, "trtllm"),
    "DeepEP V1 low-latency": Library("h800-sxm-8", LOW_LATENCY, "pairs", 16),
    "DeepEP V1 normal": Library("h800-sxm-8", HIGH_THROUGHPUT, "levels", 8),
    "DeepEP-Ascend low-latency": Library("cloudmatrix384", LOW_LATENCY, "pairs", 16),
    "DeepEP-Ascend normal": Library("cloudmatrix384", HIGH_THROUGHPUT, "pairs", 16),
    "CANN EP": Library("cloudmatrix384", LOW_LATENCY, "pairs", 8),
}


@dataclass(frozen=True)
class Row:
    """A published figure as seconds, with what the network alone and the measured form say."""

    system: str
    way: str
    ranks: int
    grade: str
    published_s: float
    bound_s: float
    links_s: float
    exchange_s: float


def rows(path: Path) -> list[Row]:
    """Every exchange of the file whose machine and batch are stated, once."""
    found = {}
    with path.open() as stream:
        for line in csv.DictReader(stream):
            library, ranks = LIBRARIES.get(line["system"]), re.search(r"EP(\d+)", line["parallelism"])
            tokens = re.match(r"\d+", line["batch"])
            if library is None or not ranks or not tokens:
                continue
            if library.mode == LOW_LATENCY and "bandwidth" in line["metric"]:
                continue  # the same measurement as the latency beside it
            way, n, width = line["phase"], int(ranks[1]), token_bytes(line)
            bound, links, counted, exchange = predict(library, way, n, float(tokens[0]), width)
            value = float(line["value"])
            seconds = value * 1e-6 if line["unit"] == "us" else counted * width / (value * 1e9)
            row = Row(line["system"], way, n, line["grade"], seconds, bound, links, exchange)
            found[line["system"], way, n, tokens[0], width] = row
    return list(found.values())


def token_bytes(line: dict[str, str]) -> float:
    """Of one token on the wire, with its scales."""
    text = line["precision"].split("/")
    part = next((p for p in text if line["phase"] in p), text[0])
    for name, width in (
        ("MXFP8", HIDDEN + HIDDEN / 32),
        ("NVFP4", HIDDEN / 2 + HIDDEN / 16),
        ("INT8", HIDDEN + 512),
        ("FP8", HIDDEN + HIDDEN / 128 * 4),
    ):
        if name in part:
            return width
    return 2.0 * HIDDEN


@cache
def machine(name: str, ranks: int):
    hardware = load_hardware(name)
    return hardware.with_nodes(max(hardware.nodes, -(-ranks // hardware.devices_per_node)))


@cache
def predict(
    library: Library, way: str, ranks: int, tokens: float, width: float
) -> tuple[float, float, float, float]:
    """Seconds by links at full and reachable bandwidth, vectors counted, seconds of the measured form."""
    hardware = machine(library.hardware, ranks)
    domain = min(hardware.domain, ranks)
    near = np.arange(ranks)[:, None] // domain == np.arange(ranks)[None, :] // domain
    own = np.eye(ranks, dtype=bool)
    if library.count == "levels":
        sent = two_level_traffic(tokens, ranks, hardware.domain, EXPERTS, TOP_K, NODE_LIMIT)
        domains = ranks // domain
        counted = sent.out * domains / (domains - 1) if domains > 1 else sent.total
        place = np.arange(ranks) % domain
        across = ~near & (place[:, None] == place[None, :])
    else:
        copies = min(TOP_K, ranks) if library.count == "once" else TOP_K
        sent = direct_traffic(tokens, ranks, hardware.domain, copies)
        counted, across = sent.total, ~near
    inside = near & ~own
    traffic = inside * (sent.up / max(1, domain - 1)) + across * (sent.out / max(1, across[0].sum()))
    links = float(contention_seconds(network_of(hardware), traffic * width))
    out = hardware.scale_out and replace(hardware.scale_out, efficiency=1.0)
    full = replace(hardware, scale_up=replace(hardware.scale_up, efficiency=1.0), scale_out=out)
    bound = float(contention_seconds(network_of(full), traffic * width))
    fit = exchange_of(hardware, library.mode, library.backend)
    measured = fit.dispatch if way == "dispatch" else fit.combine
    exchange = one_way_seconds(
        measured, hardware, sent.up * width, sent.out * width, ranks, tokens, hardware.domain
    )
    return bound, links, counted, float(exchange)


@dataclass(frozen=True)
class Judged:
    """Errors of the larger groups of one library: ours / published - 1."""

    links: np.ndarray
    start: np.ndarray
    exchange: np.ndarray
    start_s: dict[str, float]


def judge(all_rows: list[Row]) -> dict[str, Judged]:
    """By library: the start from its small groups, the errors on the others."""
    by_system: dict[str, list[Row]] = defaultdict(list)
    for row in all_rows:
        by_system[row.system].append(row)
    found = {}
    for system, mine in by_system.items():
        small = LIBRARIES[system].small
        starts = {}
        for way in ("dispatch", "combine"):
            missing = [r.published_s - r.links_s for r in mine if r.way == way and r.ranks <= small]
            starts[way] = float(np.median(missing)) if missing else 0.0
        test = [row for row in mine if row.ranks > small]
        published = np.array([row.published_s for row in test])
        links = np.array([row.links_s for row in test])
        start = np.array([starts[row.way] for row in test])
        exchange = np.array([row.exchange_s for row in test])
        found[system] = Judged(
            links / published - 1, (links + start) / published - 1, exchange / published - 1, starts
        )
    return found


def nccl_shares(path: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Least time of the links at full bandwidth over what NCCL takes for large messages.

    By system and collective, pairs of devices and share.
    """
    found = defaultdict(list)
    with path.open() as stream:
        for line in csv.DictReader(stream):
            n = int(line["num_gpus"])
            collective = line["collective"].replace("alltoall", "all_to_all")
            hardware = machine(line["system"], n)
            ways = inside_lines(hardware, collective, n, n).values()
            least = min(way.beta_s for way in ways) * hardware.scale_up.efficiency
            measured = 1e-9 / float(line["algbw_large_GBps(slope>=64MiB)"])
            found[line["system"], collective].append((n, least / measured))
    return found


def main() -> None:
    data = Path(sys.argv[1])
    found = judge(rows(data / "published" / "measurements.csv"))
    print(
        "| library | judged on | n | links: median, 90 % | start (dispatch, combine) | with it | exchange |"
    )
    print("|---|---|---|---|---|---|---|")
    for system, errors in found.items():
        cells = [
            f"{np.median(np.abs(e)):.1%}, {np.quantile(np.abs(e), 0.9):.1%}"
            for e in (errors.links, errors.start, errors.exchange)
        ]
        start = ", ".join(f"{errors.start_s[way] * 1e6:.0f} us" for way in ("dispatch", "combine"))
        judged = f"above EP{LIBRARIES[system].small}"
        print(
            f"| {system} | {judged} | {len(errors.links)} | {cells[0]} | {start} | {cells[1]} | {cells[2]} |"
        )
    print("\nNCCL's large messages: time of the links at full bandwidth over that measured")
    for (system, collective), shares in nccl_shares(data / "facts" / "nccl_alpha_beta_fits.csv").items():
        best = {n: max(share for m, share in shares if m == n) for n, _ in shares}
        print(system, collective, ", ".join(f"{n}: {share:.0%}" for n, share in sorted(best.items())))


if __name__ == "__main__":
    main()
