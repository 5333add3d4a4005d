"""A million requests on one page, in seconds and in little memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from moesim.reporting.export_html import MAX_BYTES
from tests.program import run_here

TIMES = 1000
SIMULATE = (
    "simulate --model gpt-oss-20b --hardware h100-sxm-8 --dp 8 --ep 8 --request-rate 40 --num-requests 1000 "
    "--input-len 256 --output-len 16 --warmup none --cooldown none --json -o few.parquet"
)
#: What a command used, from a small process: a child begins with the memory of the one that starts it.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "moesim", *sys.argv[1:]]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""


@pytest.fixture
def million(tmp_path):
    """A simulation's document and its table, both a thousand times over."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    done = run_here(*SIMULATE.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    few = pq.read_table(tmp_path / "few.parquet")
    document = json.loads(done.stdout)
    length = document["duration_s"]
    times = [
        name for name in few.column_names if name.endswith("_s") and pa.types.is_floating(few[name].type)
    ]
    moments = [name for name in times if pc.max(few[name]).as_py() > length / 2]
    with pq.ParquetWriter(tmp_path / "many.parquet", few.schema) as writer:
        for nth in range(TIMES):
            part = few
            for name in moments:
                place = part.column_names.index(name)
                part = part.set_column(place, part.field(name), pc.add(part[name], nth * length))
            writer.write_table(part)
    document["requests"] *= TIMES
    document["completed"] *= TIMES
    document["duration_s"] *= TIMES
    for name in ("to_s", "requests"):
        document["window"][name] *= TIMES
    (tmp_path / "many.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="needs what a process has used")
def test_a_million_requests_make_a_page(million):
    page = million / "page.html"
    words = ["report", "many.json", "many.parquet", "-o", str(page)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], cwd=million, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seconds, memory = map(float, done.stdout.split()[-2:])
    # CPU seconds: others may use the machine.
    assert seconds < 10
    assert memory * (1 if sys.platform == "darwin" else 1024) < 1e9
    text = page.read_text("utf-8")
    assert "n = 1,000,000 requests" in text
    assert len(text.encode()) < MAX_BYTES / 4
