"""What drafted tokens gain: DeepSeek-R1 runs that differ in nothing recorded but the kind of source.

    python benchmarks/draft_gain.py e2e_serving.csv

Rows from the CSV sources ran with drafts, rows from the data base without: nobody recorded it, the speed
tells. Prints, by engine and concurrency, the number of pairs, and median and largest ratio of TPOT.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from moesim.validate import dedupe, read_serving


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path)
    pairs: dict[tuple[object, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in dedupe(read_serving(parser.parse_args().csv)):
        if row.model == "deepseek-r1" and row.layout and not row.doubtful and row.tpot_ms:
            what = (row.hardware, row.dtype, row.layout_text, row.isl, row.osl)
            pairs[(row.backend, row.concurrency, *what)][row.campaign.split()[0]].append(row.tpot_ms)
    gains: dict[tuple[str, float], list[float]] = defaultdict(list)
    for (backend, concurrency, *_), by_source in pairs.items():
        if {"csv", "db-dump"} <= by_source.keys():
            ratio = float(np.median(by_source["db-dump"]) / np.median(by_source["csv"]))
            gains[str(backend), float(str(concurrency))].append(ratio)
    for (backend, concurrency), found in sorted(gains.items()):
        median, most = np.median(found), max(found)
        print(
            f"{backend} {concurrency:4g} requests: {len(found):2} pairs, median {median:.2f}, most {most:.2f}"
        )


if __name__ == "__main__":
    main()
