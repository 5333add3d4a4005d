"""A real document of every kind, printed by the program on bundled data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from moesim.files import data_dir
from tests.program import run_here

ROOT = Path(__file__).resolve().parents[2]
TRACE = data_dir("traces") / "gpt-oss-20b-synthetic.npz"
COUNTS = data_dir("traces") / "deepseek-v3-synthetic.json"
BOX = "--model gpt-oss-20b --hardware h100-sxm-8".split()
LAYOUT = "--dp 8 --ep 8".split()
TRAFFIC = "--input-len 256 --output-len 32 --request-rate 40 --num-requests 200".split()
PROMISE = "--goodput ttft:40 --goodput tpot:20".split()

STUDY = """schema_version: 1
name: small
base:
  model: gpt-oss-20b
  hardware: h100-sxm-8
  workload: {input_len: 1024, output_len: 128}
grid:
  layout: [{dp: 8, ep: 8}, {tp: 8}, {tp: 3}]
  workload.concurrency: [16, 64]
"""

#: A published figure that moesim predicts, and one of a machine that nobody knows.
PUBLISHED = "\n".join((
    "system,hardware,num_devices,model,phase,precision,parallelism,batch,input_len,output_len,metric,value,unit,"
    "source,locator,grade",
    "DeepSeek blog,H800,32,DeepSeek-R1 671B,prefill,FP8,EP32,16384 tokens/device,4096,1,"
    "throughput_per_device,4026,tok/s/device,a paper,Table 2,P",
    "a system,an unknown machine,1,nothing,decode,FP8,EP1,1,1,1,throughput,1,tok/s,a paper,Table 1,P",
))  # fmt: skip

#: What prints each kind; `-o` where a file is written too.
COMMANDS = {
    "prediction": ["predict", *BOX, *LAYOUT, "--concurrency", "256", "--trace", TRACE],
    "placement": ["place", TRACE, *BOX, "--ep", "8", "--redundant", "8"],
    "simulation": ["simulate", *BOX, *LAYOUT, *TRAFFIC, *PROMISE, "-o", "simulation.parquet"],
    "replications": ["simulate", *BOX, *LAYOUT, *TRAFFIC, "--replications", "3", "-o",
                     "replications.csv"],
    "plan": ["plan", *BOX, *"--request-rate 20 --input-len 1024 --output-len 64".split(),
             *"--goodput ttft:500 tpot:30".split(),
             *"--num-requests 200 --confirm 1 --max-devices 8 --tp 1 2 --pp 1".split()],
    "replay": ["replay", TRACE, "--compare", "lru,lfu,belady"],
    "replay-curve": ["replay", TRACE, "--curve"],
    "replay-systems": ["replay", TRACE, "--system", "fiddler,mixtral-offloading", "--hardware", "rtx-4090",
                       "--model", "gpt-oss-20b", "--tokens", "200"],
    "trace-statistics": ["trace", "stats", TRACE, "--only", "load", "--only", "locality", "--only",
                         "coupling", "--bootstrap", "5"],
    "counts": ["trace", "stats", COUNTS],
    "validation-published": ["validate", "published", "published.csv"],
    "scoreboard": ["reproduce", "QMoE", "MC-MoE", "--no-sweep", "--all"],
    "training": ["train", "mixtral-8x7b", "--hardware", "h100-sxm-8", "--nodes", "4", "--ep", "8",
                 "--recompute", "full"],
    "training-search": ["train", "mixtral-8x7b", "--hardware", "h100-sxm-8", "--nodes", "2", "--search",
                        "--top", "3"],
}  # fmt: skip
#: Whose kind is another than their name here.
KIND = {"replications": "simulation", "counts": "trace-statistics"}


def print_all(folder: Path) -> dict[str, Path]:
    """Files with a document of every kind, by name."""
    (folder / "published.csv").write_text(PUBLISHED)
    (folder / "small.yaml").write_text(STUDY)
    found = {}
    for name, words in COMMANDS.items():
        done = run_here(*words, "--json", cwd=folder)
        assert done.returncode == 0, (name, done.stderr)
        found[name] = folder / f"{name}.json"
        found[name].write_text(done.stdout)
    found["study"] = folder / "study.json"
    done = run_here("plan", "--grid", "small.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found["study"].write_text(done.stdout)
    found["validation-reference"] = folder / "validation-reference.json"
    shutil.copy(ROOT / "reports" / "xeon-vm-2" / "reference-cpu.json", found["validation-reference"])
    return found


def document(path: Path) -> dict:
    """What was printed."""
    return json.loads(path.read_text())
