"""MoE-Gen's tables: published and ours, row by row.

    python benchmarks/throughput/moe_gen.py measurements.csv

The file holds published measurements, one a row, with columns ``system source locator hardware model phase
batch input_len output_len metric value grade`` (arXiv 2503.09716, Tables 4 and 6 to 9). A row is reproduced
when ours is within 15 % of what is printed. ``in digits`` takes the nearest number that is printed alike.
``--baselines`` adds the systems that the paper compares with: DeepSpeed as whole batches on the same graph,
FlexGen and MoE-Lightning as `moesim.throughput.search` models them with the batch that it finds best (the
paper does not describe its own implementations of them). vLLM and llama.cpp are not modelled.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.systems.gen_paper import LINK_BYTES_PER_S, TESTBEDS, bed_box, dataset_hours, paper_plan
from moesim.throughput.gen_whole import whole_plan
from moesim.throughput.gen_work import ModelWork
from moesim.throughput.result import Workload
from moesim.throughput.search import best_policy

SOURCE = "2503.09716"
BASELINES = {"DeepSpeed": "", "FlexGen": "flexgen", "MoE-Lightning": "moe-lightning"}
MODELS = {
    "Mixtral-8x7B": "mixtral-8x7b",
    "Mixtral-8x22B": "mixtral-8x22b",
    "DeepSeek-V2 236B": "deepseek-v2",
    "DeepSeek-R1 671B": "deepseek-r1",
    "DeepSeek-V2-Lite": "deepseek-v2-lite",
}
#: Output that goes with a prefill figure: Table 7 names none, Table 6 next to it starts at 256.
OUTPUT = 256
#: Host memory that R1 in 8 bits needs and that its authors recommend (README: 1 TB).
R1_HOST = (0.75e12, 1.0e12)


def number(text: str) -> int:
    """``16K`` is 16384, as in the tables' captions."""
    text = text.split()[0]
    return int(float(text[:-1]) * 1024) if text.endswith("K") else int(float(text))


def sequences(text: str) -> int:
    return int(float(text.split("K")[0]) * 1000)


def ours(row: dict[str, str], host: float | None = None) -> float:
    """The figure of a row of MoE-Gen, in its unit."""
    bed = row["hardware"].split(":")[0]
    box, model = bed_box(bed, host_bytes=host), MODELS[row["model"]]
    mode = "G" if row["system"].endswith("(G)") else "H"
    prompt = number(row["input_len"])
    output = number(row["output_len"]) if row["output_len"] else OUTPUT
    batch = row["batch"]
    if row["phase"] == "offline dataset":
        whole = paper_plan(box, bed, model, mode, Workload(prompt, output))
        return dataset_hours(whole, sequences(batch))
    plan = paper_plan(
        box, bed, model, mode, Workload(prompt, output, int(batch) if batch.isdigit() else None)
    )
    return plan.decode_tokens_per_s if row["phase"] == "decode" else plan.prefill_tokens_per_s


def baseline(row: dict[str, str]) -> float:
    """The figure of a row of a baseline, in its unit."""
    hardware = load_hardware(TESTBEDS[row["hardware"].split(":")[0]])
    link = replace(hardware.host_link, bandwidth_bytes_per_s=LINK_BYTES_PER_S, efficiency=1.0)
    batch, output = row["batch"], number(row["output_len"]) if row["output_len"] else OUTPUT
    requests = int(batch) if batch.isdigit() else None
    workload = Workload(number(row["input_len"]), output, requests)
    name = BASELINES[row["system"].split("(")[0].rstrip("*")]
    model = load_model(MODELS[row["model"]])
    if name:
        best = best_policy(name, model, replace(hardware, host_link=link), workload)
    else:
        best = whole_plan(ModelWork.of(model), bed_box(row["hardware"].split(":")[0]), workload)
    if row["phase"] == "offline dataset":
        return dataset_hours(best, sequences(batch))
    return best.decode_tokens_per_s if row["phase"] == "decode" else best.prefill_tokens_per_s


def half_digit(value: float) -> float:
    """Half a unit of the last digit printed."""
    return 0.05 if value != int(value) else 0.5


def within(ours: float, value: float, digits: bool) -> bool:
    low, high = (value - half_digit(value), value + half_digit(value)) if digits else (value, value)
    return 0.85 * low <= ours <= 1.15 * high


def show(row: dict[str, str], shown: str, verdict: str) -> None:
    shape = f"{row['input_len']}/{row['output_len'] or '-'} {row['batch']}"
    print(
        f"{row['locator']:8} {row['hardware'].split(':')[0]:3} {row['system']:11} {row['model']:17} "
        f"{row['phase']:16} {shape:24} {float(row['value']):8g} {shown}  {verdict}"
    )


def tables(rows: list[dict[str, str]]) -> None:
    """MoE-Gen's own rows."""
    strict = loose = fits = 0
    for row in rows:
        value = float(row["value"])
        try:
            got = ours(row)
        except InfeasibleError as error:
            lowest, highest = (ours(row, host) for host in R1_HOST)
            why = f"assumption-bound: needs {error.needed / 1e9:.0f} GB of host memory; 0.75 to 1 TB"
            show(row, f"{lowest:8.4g} - {highest:.4g}", why)
            continue
        fits += 1
        good, almost = within(got, value, digits=False), within(got, value, digits=True)
        strict, loose = strict + good, loose + almost
        verdict = "reproduced" if good else "in digits" if almost else "not reproduced"
        show(row, f"{got:8.4g} {got / value:5.2f}", verdict)
    print(f"\nreproduced: {strict} of {len(rows)} rows ({strict / len(rows):.0%}); in digits {loose}")
    print(f"of the {fits} rows whose model fits the memory that is stated: {strict / fits:.0%}")


def others(rows: list[dict[str, str]]) -> None:
    """Rows of the systems that it is compared with."""
    strict = loose = modelled = 0
    for row in rows:
        value = float(row["value"])
        if row["system"].split("(")[0].rstrip("*") not in BASELINES:
            continue
        try:
            got = baseline(row)
        except (InfeasibleError, ConfigError) as error:
            show(row, f"{'-':>8}     -", f"no plan: {error}"[:90])
            continue
        modelled += 1
        good, almost = within(got, value, digits=False), within(got, value, digits=True)
        strict, loose = strict + good, loose + almost
        show(
            row, f"{got:8.4g} {got / value:5.2f}", "reproduced" if good else "in digits" if almost else "not"
        )
    print(f"\nbaselines reproduced: {strict} of {len(rows)} rows ({modelled} modelled); in digits {loose}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--baselines", action="store_true", help="the systems compared with, too")
    arguments = parser.parse_args()
    with arguments.measurements.open(newline="", encoding="utf-8") as handle:
        rows = [
            row for row in csv.DictReader(handle) if SOURCE in row["source"] and "Table" in row["locator"]
        ]
    own = [row for row in rows if row["system"].startswith("MoE-Gen")]
    print(
        f"{'':8} {'':3} {'':11} {'':17} {'':16} {'prompt/output sequences':24} {'paper':>8} {'ours':>8} ratio"
    )
    tables(own)
    if arguments.baselines:
        print()
        others([row for row in rows if row not in own])


if __name__ == "__main__":
    main()
