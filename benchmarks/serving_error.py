"""How far uncalibrated predictions are from measured serving runs, and the intervals that follow.

Reads the public measurements of ``silicon/e2e_serving.csv`` (ai-dynamo/aiconfigurator 095f58a, Apache-2.0):
closed-loop runs of MoE models, time to first and per output token. Nothing of the model is fitted here but,
for TTFT, the unrecorded number of tokens each engine collects before it sends any. Quantiles of measured over
predicted become the interval, and halves of the configurations tell how well it holds.

    python benchmarks/serving_error.py [--csv FILE] [--write]

``--write`` stores the quantiles in ``hardware/residuals/serving.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

import moesim as ms
from moesim.errors import ConfigError, InfeasibleError
from moesim.files import data_dir

MODELS = {
    "DeepSeek-R1": "deepseek-r1",
    "DeepSeek-V3": "deepseek-r1",
    "MiniMax-M2.5": "minimax-m2.5",
    "gpt-oss-120b": "gpt-oss-120b",
    "Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
    "Kimi-K2.5": "kimi-k2.5",
}
SYSTEMS = {
    "h100_sxm": "h100-sxm-8",
    "h200_sxm": "h200-sxm-8",
    "b200_sxm": "b200-sxm-8",
    "b300_sxm": "b300-sxm-8",
}
LEVEL = 0.90


def rows(path: Path) -> pd.DataFrame:
    """Distinct aggregated MoE rows with the layout as it was run."""
    table = pd.read_csv(path, low_memory=False)
    table["short"] = table["model_path"].str.split("/").str[-1]
    table = table[
        (table["mode"] == "agg") & table["short"].isin(MODELS) & table["system"].isin(SYSTEMS)
    ].copy()
    table["concurrency"] = [
        float(m[1]) if (m := re.search(r"silicon_concurrency=(\d+)", source)) else batch * dp
        for source, batch, dp in zip(
            table["silicon_data_source"], table["batch_size"], table["attention_dp_size"], strict=True
        )
    ]
    layout = [_layout(r) for r in table.itertuples()]
    table[["tp", "dp", "ep", "moe_tp"]] = pd.DataFrame(layout, index=table.index)
    # Where attention and experts disagree on the number of devices, nobody knows what was run.
    table = table[table["tp"] * table["dp"] == table["moe_tp"] * table["ep"]]
    table["served"] = table["short"].map(MODELS)
    table["key"] = [
        f"{t:.4g}/{p:.4g}" for t, p in zip(table["silicon_ttft_ms"], table["silicon_tpot_ms"], strict=True)
    ]
    return table.drop_duplicates("key")


def _layout(row: object) -> tuple[int, int, int, int]:
    """Undo the squared degrees of the source: what was run is at most one node of 8.

    TP 64 with EP 8 is TP 8 / EP 8; DP 64 is DP 8; vLLM's TP 4, DP 4, EP 16 is DP 4 / EP 4.
    """
    tp, dp, ep, moe_tp = (
        1 if np.isnan(n) else int(n)
        for n in (row.tp_size, row.attention_dp_size, row.moe_ep_size, row.moe_tp_size)  # type: ignore[attr-defined]
    )
    if dp in (16, 64):
        dp = round(dp**0.5)
    if tp in (16, 64):
        tp = round(tp**0.5)
        moe_tp = min(moe_tp, tp // ep)
    if tp == dp > 1 and ep == tp * dp:
        return 1, dp, dp, 1
    return tp, dp, ep, tp * dp // ep if moe_tp * ep != tp * dp and moe_tp == ep else moe_tp


def answers(table: pd.DataFrame) -> pd.DataFrame:
    """Predictions beside measurements; what does not fit or cannot be laid out is left NaN."""
    models = {name: ms.load_model(name) for name in set(MODELS.values())}
    machines = {name: ms.load_hardware(name) for name in SYSTEMS.values()}
    found = []
    for row in table.itertuples():
        engine = ms.Engine(dtype=_dtype(row), kv_cache_dtype="auto", backend=row.backend)
        try:
            answer = ms.predict(
                models[row.served],
                machines[SYSTEMS[row.system]],
                ms.Parallelism(tp=row.tp, dp=row.dp, ep=row.ep),
                ms.Workload(0.9 * row.isl, 0.9 * row.osl, row.concurrency),
                engine=engine,
            )
            found.append((answer.ttft_s * 1e3, answer.tpot_s * 1e3, answer.running, ""))
        except (ConfigError, InfeasibleError) as error:
            found.append((np.nan, np.nan, np.nan, str(error)))
    table = table.copy()
    table[["ttft", "tpot", "running", "reason"]] = pd.DataFrame(found, index=table.index)
    return table


def _dtype(row: object) -> str:
    """Data type of the run: the checkpoint's own, or what the precision column says."""
    precision = str(row.precision).lower()  # type: ignore[attr-defined]
    own = {"gpt-oss-120b": ("fp4", "fp8"), "kimi-k2.5": ("int4",)}
    if precision in own.get(row.served, ()):  # type: ignore[attr-defined]
        return "auto"
    return {"fp4": "nvfp4", "fp8": "fp8"}.get(precision, "auto")


def halves(table: pd.DataFrame) -> pd.Series:
    """0 or 1 by configuration: all lengths and concurrencies of one configuration are on the same side."""
    columns = ["served", "system", "backend", "precision", "tp", "dp", "ep"]
    return table[columns].astype(str).agg("|".join, axis=1).map(lambda text: zlib.crc32(text.encode()) % 2)


def with_streaming(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """TTFT at the client, if each backend sends its first tokens in a group of a size nobody recorded.

    The only thing that is fitted: one number of decode steps per backend, on the other half of the
    configurations, where concurrency is at most 64 and queues are short.
    """
    table, half = table.copy(), halves(table)
    steps: dict[str, list[float]] = {}
    table["ttft_client"] = np.nan
    for backend, part in table.groupby("backend"):
        for side in (0, 1):
            calm = part[(half[part.index] != side) & (part["concurrency"] <= 64)]
            delay = max(0.0, ((calm["silicon_ttft_ms"] - calm["ttft"]) / calm["tpot"]).median())
            mine = part[half[part.index] == side]
            table.loc[mine.index, "ttft_client"] = mine["ttft"] + delay * mine["tpot"]
            steps.setdefault(str(backend), []).append(round(float(delay), 1))
    return table, steps


def report(table: pd.DataFrame) -> pd.DataFrame:
    """Median and 90 % of |predicted / measured - 1|, and the median ratio, by group."""
    groups = {"all": table} | {
        f"{c}={k}": g for c in ("served", "system", "backend") for k, g in table.groupby(c)
    }
    lines = []
    for name, part in groups.items():
        line = {"rows": name, "n": len(part)}
        for metric, column in (("tpot", "tpot"), ("ttft", "ttft"), ("ttft+", "ttft_client")):
            ratio = part[column] / part[f"silicon_{metric[:4]}_ms"]
            error = (ratio - 1).abs()
            line |= {
                f"{metric} median": error.median(),
                f"{metric} p90": error.quantile(0.9),
                f"{metric} ratio": ratio.median(),
            }
        lines.append(line)
    return pd.DataFrame(lines)


def intervals(table: pd.DataFrame) -> dict[str, object]:
    """Quantiles of measured over predicted on each half of the configurations, and how they hold there.

    The halves differ (some rows had speculative decoding, nobody noted which), so the wider is kept.
    """
    half = halves(table)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    factors, coverage, apart = {}, {}, {}
    for metric in ("ttft", "tpot"):
        ratio = table[f"silicon_{metric}_ms"] / table["ttft_client" if metric == "ttft" else metric]
        quantiles = [ratio[half == h].quantile(tails).to_numpy() for h in (0, 1)]
        held = [ratio[half == 1 - h].between(*quantiles[h]).mean() for h in (0, 1)]
        low, high = np.min(quantiles, axis=0)[0], np.max(quantiles, axis=0)[1]
        factors[metric] = [round(float(low), 3), round(float(high), 3)]
        coverage[metric] = {
            "each_half_on_the_other": [round(float(h), 3) for h in held],
            "wider_on_all": round(float(ratio.between(low, high).mean()), 3),
        }
        # For what is unlike all of these: the widest of what any one system or model would need.
        parts = [ratio[table[c] == k] for c in ("system", "served") for k in table[c].unique()]
        ends = [p.quantile(tails).to_numpy() for p in parts]
        apart[metric] = [round(float(np.min(ends)), 3), round(float(np.max(ends)), 3)]
    return {"factors": factors, "coverage": coverage, "factors_elsewhere": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("MOESIM_SHARED", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--csv", type=Path, default=shared / "silicon" / "e2e_serving.csv")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    table = answers(rows(options.csv))
    left = table["tpot"].isna()
    print(f"{len(table)} distinct rows, {left.sum()} not predicted")
    print(table.loc[left, "reason"].str[:90].value_counts().head(5).to_string())
    table = table[~left]
    table, steps = with_streaming(table)
    print(report(table).round(3).to_string(index=False))
    print("ttft+ delays the first token by a number of decode steps, fitted on the other half:", steps)
    found = intervals(table)
    print(found)
    if options.write:
        document = {
            "level": LEVEL,
            "devices": [ms.load_hardware(name).device.name for name in SYSTEMS.values()],
            **found,
            "streaming_steps": steps,
            "rows": len(table),
            "basis": f"{LEVEL:.0%} of the residuals of {len(table)} public measurements of six MoE models on "
            "H100, H200, B200 and B300 nodes; of TTFT, after a streaming delay per engine fitted on other "
            "configurations; nothing else was calibrated",
            "basis_elsewhere": "a device without public measurements here: the widest residuals of "
            "any one system or model",
            "source": "ai-dynamo/aiconfigurator@095f58a silicon_sample.csv (Apache-2.0), aggregated MoE rows",
            "made_by": "benchmarks/serving_error.py --write",
        }
        target = data_dir("hardware") / "residuals" / "serving.json"
        target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {target}")


if __name__ == "__main__":
    main()
