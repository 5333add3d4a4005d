"""`moesim validate published`: every row answered, the gate, and what is wrong with a file."""

from __future__ import annotations

import csv
import json
import math

import pytest

from moesim.validate import compare_published, published_document, read_published

COLUMNS = (
    "system,source,locator,hardware,num_devices,model,phase,precision,parallelism,batch,input_len,output_len,"
    "metric,value,unit,baseline,notes,grade"
).split(",")
LOW_LATENCY = {
    "system": "DeepEP V1 low-latency",
    "hardware": "H800 (CX7 400Gb ~50GB/s)",
    "num_devices": "64",
    "model": "DeepSeek-V3 (7168, top8)",
    "phase": "dispatch",
    "precision": "FP8 dispatch/BF16 combine",
    "parallelism": "EP64",
    "batch": "128 tok/rank",
    "metric": "latency",
    "value": "173.0",
    "unit": "us",
    "grade": "P",
}


def write(path, *rows, columns=COLUMNS):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def answers(tmp_path, *rows):
    return published_document(compare_published(read_published(write(tmp_path / "p.csv", *rows))))


def one(tmp_path, **changes):
    (row,) = answers(tmp_path, LOW_LATENCY | changes)["rows"]
    return row


# --- against what was published -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(request):
    shared = request.getfixturevalue("shared")
    return published_document(compare_published(read_published(shared("published/measurements.csv"))))


def test_every_row_is_answered(document):
    rows, summary = document["rows"], document["summary"]
    assert len(rows) == summary["rows"] == 1188
    for row in rows:
        assert (row["ours"] is None) == (row["status"] == "unsupported") == bool(row["reason"])
        if row["ours"] is not None:
            assert row["ratio"] == pytest.approx(row["ours"] / row["published"])
    missing = summary["unsupported"]
    assert missing["n"] == sum(row["ours"] is None for row in rows) == sum(missing["reasons"].values())


def test_only_primary_text_counts(document):
    rows = [r for r in document["rows"] if r["ours"] is not None]
    assert document["summary"]["n"] == sum(r["grade"] == "P" for r in rows)
    assert "P" not in document["summary"]["other_grades"]
    counted = sum(part["n"] for part in document["summary"]["other_grades"].values())
    assert counted == sum(r["grade"] != "P" for r in rows) > 0


def test_exchanges_fitted_on_small_groups_predict_larger_ones(document):
    """The target: median 10 %, 90th percentile 25 %, one vote per system, on rows nothing was fitted to."""
    vote = document["summary"]["one_vote"]["exchange"]
    assert vote["systems"] >= 4
    assert vote["median_abs_error"] <= 0.10
    assert vote["p90_abs_error"] <= 0.25
    whole = document["summary"]["judged_by_kind"]["exchange"]
    assert whole["n"] >= 90
    assert whole["median_abs_error"] <= 0.06
    assert whole["p90_abs_error"] <= 0.20


def test_latency_rows_of_each_system(document):
    judged = [
        r
        for r in document["rows"]
        if r["kind"] == "exchange" and r["grade"] == "P" and r["metric"] == "latency" and not r["fitted"]
    ]
    for system, most in (("DeepEP V1", 0.11), ("DeepEP-Ascend", 0.10), ("TRT-LLM NVLinkOneSided", 0.40)):
        errors = [abs(r["error"]) for r in judged if r["system"].startswith(system)]
        assert errors
        assert max(errors) <= most


# --- rows one by one ------------------------------------------------------------------------------------


def test_latency_and_bandwidth_of_one_measurement_agree(tmp_path):
    latency = one(tmp_path)
    bandwidth = one(tmp_path, metric="rdma_bandwidth", unit="GB/s", value="43")
    counted = 128 * 8 * (7168 + 56 * 4)
    assert bandwidth["ours"] == pytest.approx(counted / (latency["ours"] * 1e-6) / 1e9)
    assert one(tmp_path, unit="ms", value="0.173")["ours"] == pytest.approx(latency["ours"] / 1e3)
    assert not latency["fitted"]
    assert one(tmp_path, parallelism="EP16", num_devices="16")["fitted"]


@pytest.mark.parametrize(
    ("changes", "published", "within"),
    [
        ({"hardware": "SM90 CX7", "parallelism": "EP 8 x 2", "unit": "GB/s (RDMA)"}, 90, 0.10),
        ({"hardware": "SM90 CX7", "parallelism": "EP 8 x 4", "unit": "GB/s (RDMA)"}, 61, 0.10),
        ({"hardware": "SM100 CX7", "parallelism": "EP 8 x 2", "unit": "GB/s (RDMA)"}, 90, 0.10),
        ({"hardware": "SM100", "parallelism": "EP8", "unit": "GB/s (NVLink)"}, 726, 0.15),
    ],
)
def test_deepep_v2_is_predicted_from_v1(tmp_path, changes, published, within):
    """Nothing of V2 was fitted: NVLink's and InfiniBand's shares are those of V1."""
    changes = changes | {"system": "DeepEP V2", "batch": "8K tok/rank", "num_devices": ""}
    row = one(tmp_path, metric="bottleneck_bandwidth", value=str(published), **changes)
    assert row["reason"] == ""
    assert abs(row["error"]) < within


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": ""}, "blank"),
        ({"value": "34-52"}, "range"),
        ({"grade": "P/SIM"}, "simulator"),
        ({"parallelism": "", "num_devices": ""}, "ranks"),
        ({"metric": "energy"}, "energy"),
        ({"system": "FSMoE", "phase": "training"}, "training"),
        ({"system": "FlexGen", "phase": "offline gen"}, "outside of device memory"),
        ({"system": "Somebody", "phase": "decode", "unit": "x"}, "ratio"),
        ({"system": "Somebody", "phase": "decode"}, "no predictor"),
        ({"system": "SGLang MTP", "phase": "decode", "metric": "TPOT", "hardware": "H100"}, "imitates"),
        ({"system": "DeepSeek blog", "phase": "decode", "metric": "TPOT", "hardware": "TPU"}, "hardware"),
        ({"system": "DeepSeek blog", "phase": "decode", "metric": "TPOT", "hardware": "H800"}, "how long"),
        ({"system": "DeepGEMM dense", "hardware": "H800 SXM", "model": "large"}, "matrices"),
        ({"system": "FlashMLA", "hardware": "H800", "metric": "sparse_prefill"}, "attends"),
    ],
)
def test_what_is_not_predicted_has_a_reason(tmp_path, changes, reason):
    row = one(tmp_path, **changes)
    assert row["status"] == "unsupported"
    assert reason in row["reason"]


def test_a_deployment_answers_per_node_and_per_device_alike(tmp_path):
    changes = {
        "system": "DeepSeek profile",
        "hardware": "H800",
        "phase": "decode",
        "parallelism": "EP128",
        "batch": "128",
        "input_len": "4096",
    }
    per_node = one(tmp_path, **changes, metric="throughput_per_node", unit="tok/s/node")["ours"]
    per_device = one(tmp_path, **changes, metric="throughput_per_device", unit="tok/s/device")["ours"]
    step_ms = one(tmp_path, **changes, metric="TPOT", unit="ms")["ours"]
    assert per_node == pytest.approx(8 * per_device)
    assert per_device == pytest.approx(128 / (step_ms * 1e-3))


def test_drafts_of_a_deployment_are_checked_in_one_step(tmp_path):
    """CloudMatrix counts sequences by package of two dies, and 256 experts lie on 320 of them."""
    changes = {
        "system": "CloudMatrix-Infer",
        "hardware": "CloudMatrix384 Ascend 910C",
        "num_devices": "160",
        "phase": "decode",
        "batch": "96",
        "input_len": "4096",
        "metric": "TPOT",
        "unit": "ms",
    }
    plain = one(tmp_path, **changes, parallelism="EP320")
    drafted = one(tmp_path, **changes, parallelism="EP320, MTP1 (0.70 accept)")
    never = one(tmp_path, **changes, parallelism="EP320, MTP1 (0 accept)")
    assert never["ours"] == pytest.approx(1.7 * drafted["ours"])
    assert drafted["ours"] < plain["ours"] < never["ours"]
    assert "1 draft(s)" in drafted["assumed"]
    rate = changes | {"metric": "throughput_per_device", "unit": "tok/s/NPU"}
    assert one(tmp_path, **rate, parallelism="EP320")["ours"] == pytest.approx(96 / (plain["ours"] * 1e-3))


def test_groups_of_a_kernel_share_tiles_and_not_weights(tmp_path):
    changes = {
        "hardware": "H800 SXM",
        "precision": "FP8",
        "phase": "kernel",
        "metric": "compute",
        "unit": "us",
    }

    def micros(system, sizes):
        return one(tmp_path, **changes, system=system, model=sizes)["ours"]

    dense = micros("DeepGEMM dense", "M=1024 N=4096 K=7168")
    assert micros("DeepGEMM grouped masked", "G=1 m=1024 N=4096 K=7168") == pytest.approx(dense)
    assert micros("DeepGEMM grouped masked", "G=4 m=256 N=4096 K=7168") > dense
    # Whoever reads weights once more takes at least as long as that traffic.
    many = micros("DeepGEMM grouped masked", "G=256 m=4 N=4096 K=7168")
    assert many > 256 * 4096 * 7168 / 3.43e12 * 1e6


def test_a_kernel_answers_with_flops_or_bytes_over_one_time(tmp_path):
    changes = {"system": "DeepGEMM dense", "hardware": "H800 SXM", "precision": "FP8", "phase": "kernel"}
    changes |= {"model": "M=4096 N=4096 K=7168", "metric": "compute"}
    flops = one(tmp_path, **changes, unit="TFLOPS")["ours"]
    micros = one(tmp_path, **changes, unit="us")["ours"]
    assert flops == pytest.approx(2 * 4096 * 4096 * 7168 / (micros * 1e-6) / 1e12)


# --- the command ----------------------------------------------------------------------------------------


def test_the_command_prints_tables_or_one_document(moesim, tmp_path):
    path = write(tmp_path / "p.csv", LOW_LATENCY, LOW_LATENCY | {"system": "Somebody", "unit": "x"})
    code, out, _ = moesim("validate", "published", path)
    assert code == 0
    assert "DeepEP V1 low-latency" in out
    assert "1 of 2 figures are not predicted" in out
    code, out, _ = moesim("validate", "published", path, "--json")
    document = json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))
    assert code == 0
    assert len(document["rows"]) == 2
    assert document["summary"]["n"] == 1
    assert document["schema_version"] == 1
    assert document["provenance"]["inputs"]


def test_a_file_with_nothing_to_predict_has_no_errors_to_show(moesim, tmp_path):
    path = write(tmp_path / "p.csv", LOW_LATENCY | {"unit": "x", "system": "Somebody"})
    code, out, _ = moesim("validate", "published", path, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["summary"]["n"] == 0
    assert document["summary"]["median_abs_error"] is None
    assert moesim("validate", "published", path)[0] == 0


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (
            [LOW_LATENCY | {"value": "fast"}, LOW_LATENCY | {"grade": "Q"}, LOW_LATENCY | {"system": ""}],
            COLUMNS,
            ["line 2, value", "'fast'", "line 3, grade", "'Q'", "line 4, system", "blank", "3 faults"],
        ),
        ([LOW_LATENCY | {"value": "inf"}], COLUMNS, ["line 2, value", "inf"]),
        ([LOW_LATENCY], [c for c in COLUMNS if c not in ("grade", "unit")], ["no column", "grade", "unit"]),
    ],
)
def test_every_fault_of_a_file_is_named(moesim, tmp_path, rows, columns, said):
    path = write(tmp_path / "p.csv", *rows, columns=columns)
    code, out, err = moesim("validate", "published", path, "--json")
    assert code == 2
    assert out == ""
    assert all(text in err for text in [*said, str(path)])


def test_a_file_that_is_not_there_or_no_text(moesim, tmp_path):
    code, _, err = moesim("validate", "published", tmp_path / "none.csv")
    assert code == 2
    assert "none.csv" in err
    path = tmp_path / "binary.csv"
    path.write_bytes(bytes(range(256)))
    assert moesim("validate", "published", path)[0] == 2


def test_errors_are_finite(document):
    for name, part in document["summary"]["judged_by_system"].items():
        assert all(math.isfinite(value) for value in part.values()), name
