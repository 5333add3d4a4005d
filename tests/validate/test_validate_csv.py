"""The reader of measured serving rows: what is understood, what is put right, what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_rows import CELLS, COLUMNS, POOLS, write_csv

from moesim.errors import ConfigError
from moesim.layout import Parallelism
from moesim.validate import read_serving
from moesim.validate.cells import MAX_LINE_BYTES, SHOWN
from moesim.validate.source_text import campaign_of, concurrency_in, measured_in


def one(tmp_path, **cells):
    (row,) = read_serving(write_csv(tmp_path / "rows.csv", cells))
    return row


def faults(path):
    with pytest.raises(ConfigError) as caught:
        read_serving(path)
    return [str(fault) for fault in caught.value.faults]


def test_a_row_says_all_that_its_cells_do(tmp_path):
    row = one(tmp_path)
    assert (row.line, row.id, row.backend, row.version) == (2, "r1", "vllm", "0.19.0")
    assert (row.model, row.hardware, row.nodes, row.dtype) == ("gpt-oss-120b", "h100-sxm-8", None, "auto")
    assert (row.isl, row.osl, row.concurrency) == (1024, 512, 64)
    assert row.layout == Parallelism(tp=2)
    assert row.devices == 2
    assert (row.measured, row.config_id, row.campaign) == ("2026-05-01", "7", "lab 2026-05-01")
    assert (row.ttft_ms, row.tpot_ms) == (150.5, 12.25)
    assert row.supported
    assert not row.repairs
    assert not row.doubtful


def test_pools_of_a_disaggregated_row(tmp_path):
    row = one(tmp_path, **POOLS)
    assert row.layout is None
    assert row.prefill.layout == Parallelism(dp=8, ep=8)
    assert row.decode.layout == Parallelism(dp=32, ep=32)
    assert (row.prefill.workers, row.decode.workers, row.devices) == (2, 1, 48)
    assert row.model == "deepseek-r1"
    assert row.hardware == "gb200-nvl72"
    assert row.layout_text == "2 x (tp=1 pp=1 dp=8 ep=8) + 1 x (tp=1 pp=1 dp=32 ep=32)"


def test_pools_without_worker_counts(tmp_path):
    row = one(tmp_path, **POOLS | {"prefill_num_workers": "", "decode_num_workers": ""})
    assert row.devices is None
    assert row.layout_text.startswith("? x (")
    assert row.supported


@pytest.mark.parametrize(
    ("degrees", "layout", "repaired"),
    [
        ((64, 1, 8, 8), Parallelism(tp=8, ep=8), True),
        ((16, 1, 4, 4), Parallelism(tp=4, ep=4), True),
        ((4, 1, 2, 2), Parallelism(tp=2, ep=2), True),
        ((4, "", 2, 2), Parallelism(tp=4, ep=2), False),
        ((1, 64, 8, 8), Parallelism(dp=8, ep=8), True),
        ((1, 16, 4, 4), Parallelism(dp=4, ep=4), True),
        ((4, 4, 1, 16), Parallelism(dp=4, ep=4), True),
        ((2, 2, 1, 4), Parallelism(dp=2, ep=2), True),
        ((8, 1, 1, 8), Parallelism(tp=8, ep=8), False),
        ((8, 1, 8, 1), Parallelism(tp=8), False),
        ((1, 8, 1, 8), Parallelism(dp=8, ep=8), False),
        ((2, "", 2, 1), Parallelism(tp=2), False),
        ((4, 0, 0, 0), Parallelism(tp=4), False),
    ],
)
def test_squared_degrees_are_put_right(tmp_path, degrees, layout, repaired):
    names = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    row = one(tmp_path, **dict(zip(names, map(str, degrees), strict=True)))
    assert row.layout == layout
    assert bool(row.repairs) == repaired
    assert not row.doubtful


def test_experts_of_a_dense_model_mean_nothing(tmp_path):
    row = one(
        tmp_path, model_path="Qwen/Qwen3-32B", precision="", tp_size="8", moe_tp_size="1", moe_ep_size="1"
    )
    assert row.layout == Parallelism(tp=8)
    assert not row.doubtful
    assert row.dtype == "auto"


def test_what_is_hard_to_believe_is_doubtful(tmp_path):
    rack = one(tmp_path, system="gb200", tp_size="36", moe_tp_size="36")
    assert "both sides of a disaggregated" in rack.doubtful
    unclear = one(tmp_path, tp_size="1", moe_tp_size="4")
    assert unclear.layout == Parallelism(tp=4)
    assert unclear.repairs
    assert "different numbers of devices" in unclear.doubtful
    uncounted = {"prefill_num_workers": "", "decode_num_workers": "", "decode_batch_size": ""}
    one_column = uncounted | {
        "prefill_tp_size": "8",
        "prefill_attention_dp_size": "1",
        "decode_tp_size": "32",
        "decode_attention_dp_size": "1",
        "decode_moe_tp_size": "4",
        "decode_moe_ep_size": "8",
    }
    repeated = one(tmp_path, **POOLS | one_column)
    assert repeated.decode.layout == Parallelism(dp=32, ep=32)
    assert repeated.repairs == ("decode: TP 32 with EP 8 read as DP 32 with EP 32",)
    assert (repeated.prefill.attention_known, repeated.decode.attention_known) == (False, True)
    assert not repeated.doubtful
    small = one(
        tmp_path,
        **POOLS
        | one_column
        | {"decode_tp_size": "8", "prefill_moe_ep_size": "4"}
        | {"prefill_tp_size": "4", "decode_moe_tp_size": "2", "decode_moe_ep_size": "4"},
    )
    assert small.decode.layout == Parallelism(tp=8, ep=8)
    assert not small.decode.attention_known
    ones = {
        f"{side}_{name}": "1"
        for side in ("prefill", "decode")
        for name in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    }
    assert "is not recorded" in one(tmp_path, **POOLS | uncounted | ones).doubtful
    both = {
        f"{side}_{name}": n
        for side in ("prefill", "decode")
        for name, n in (
            ("tp_size", "72"),
            ("attention_dp_size", "1"),
            ("moe_tp_size", "72"),
            ("moe_ep_size", "1"),
        )
    }
    assert "TP 72 on both sides" in one(tmp_path, **POOLS | uncounted | both).doubtful


def test_sixteen_gpus_of_tensorrt_llm(tmp_path):
    sides = {
        f"{side}_{name}": n
        for side in ("prefill", "decode")
        for name, n in (
            ("tp_size", "16"),
            ("attention_dp_size", "1"),
            ("moe_tp_size", "1"),
            ("moe_ep_size", "16"),
        )
    }
    row = one(tmp_path, **POOLS | sides | {"prefill_num_workers": "", "backend": "trtllm"})
    assert row.prefill.layout == Parallelism(dp=16, ep=16)
    assert row.decode.layout == Parallelism(tp=16, ep=16)
    assert len(row.repairs) == 1
    counted = one(tmp_path, **POOLS | sides | {"backend": "trtllm"})
    assert counted.prefill.layout == Parallelism(tp=16, ep=16)
    assert not counted.repairs


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        ({"model_path": "openai/gpt-oss-120b", "precision": "fp8"}, "auto"),
        ({"model_path": "moonshotai/Kimi-K2.5", "precision": "int4"}, "auto"),
        ({"model_path": "moonshotai/Kimi-K2.5", "precision": "fp4"}, "nvfp4"),
        ({"model_path": "deepseek-ai/DeepSeek-R1", "precision": "fp8"}, "fp8"),
        ({"model_path": "nvidia/Qwen3-32B-NVFP4", "precision": ""}, "nvfp4"),
        ({"model_path": "Qwen/Qwen3-32B", "precision": "", "gemm_quant_mode": "fp8_block"}, "fp8"),
        ({"model_path": "Qwen/Qwen3-32B", "precision": ""}, "auto"),
        ({"model_path": "Qwen/Qwen3-32B", "precision": "bf16"}, "bf16"),
    ],
)
def test_data_types(tmp_path, cells, dtype):
    assert one(tmp_path, **cells).dtype == dtype


def test_concurrency_is_the_whole_deployments(tmp_path):
    assert (
        one(
            tmp_path,
            silicon_data_source="x",
            attention_dp_size="8",
            tp_size="1",
            moe_ep_size="8",
            moe_tp_size="1",
        ).concurrency
        == 64 * 8
    )
    assert one(tmp_path, **POOLS | {"silicon_data_source": "x"}).concurrency == 16 * 1 * 32
    unknown = one(tmp_path, silicon_data_source="x", batch_size="")
    assert (unknown.supported, unknown.reason) == (False, "concurrency is not recorded")


def test_more_nodes_where_one_does_not_hold_an_engine(tmp_path):
    cells = POOLS | {"system": "h100_sxm", "decode_attention_dp_size": "16", "decode_moe_ep_size": "16"}
    assert one(tmp_path, **cells).nodes == 2


def test_unknown_names_are_kept_and_unsupported(tmp_path):
    row = one(tmp_path, model_path="me/gpt-oss-121b", system="h100_smx", backend="vlm")
    assert not row.supported
    assert "unknown model 'me/gpt-oss-121b'; nearest: gpt-oss-120b" in row.reason
    assert "unknown system 'h100_smx'; nearest: h100-sxm" in row.reason
    assert "unknown backend 'vlm'" in row.reason
    assert not one(tmp_path, precision="fp5").supported
    assert "tp_size is blank" in one(tmp_path, tp_size="").reason


def test_a_system_or_model_is_never_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h100_mine.yaml").write_text("schema_version: 1")
    (tmp_path / "config.json").write_text("{}")
    assert not one(tmp_path, system="h100_mine.yaml").supported
    assert not one(tmp_path, model_path="./config.json").supported


def test_blank_measurements_are_accepted(tmp_path):
    row = one(tmp_path, silicon_ttft_ms="", silicon_tpot_ms="")
    assert (row.ttft_ms, row.tpot_ms, row.supported) == (None, None, True)
    short = tuple(c for c in COLUMNS if not c.startswith("silicon_t"))
    (row,) = read_serving(write_csv(tmp_path / "short.csv", {}, columns=short))
    assert row.ttft_ms is None


def test_every_fault_has_line_column_value_and_what_is_allowed(tmp_path):
    path = write_csv(
        tmp_path / "bad.csv",
        {},
        {"isl": "many", "tp_size": "2.5"},
        {"mode": "aggr", "silicon_ttft_ms": "-3"},
        {"id": "", "osl": "inf", "batch_size": "1e13"},
    )
    found = faults(path)
    assert len(found) == 7
    assert "line 3, isl: is no such number (got 'many'); allowed: 1 to 1e+12, or blank" in found
    assert "line 3, tp_size: is no whole number (got '2.5'); allowed: 0, 1, 2, ..., or blank" in found
    assert any("line 4, mode" in f and "nearest: agg" in f for f in found)
    assert any(f.startswith("line 4, silicon_ttft_ms") for f in found)
    assert any(f.startswith("line 5, id: is blank") for f in found)


def test_missing_and_double_columns(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,backend,model_pth,system,precision,mode,isl,isl\n")
    found = faults(path)
    assert "line 1: has no column model_path; allowed: not 'model_pth'" in found
    assert "line 1: has no column osl" in found
    assert "line 1: has the column isl 2 times" in found


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "rows.csv"
    assert "cannot be read" in faults(tmp_path / "absent.csv")[0]
    assert "cannot be read" in faults(tmp_path)[0]
    path.write_text(",".join(COLUMNS) + "\n")
    assert "holds no rows" in faults(path)[0]
    path.write_bytes(b"")
    assert "has no column id" in faults(path)[0]
    path.write_text(",".join(COLUMNS) + "\n1,2,3\n")
    assert faults(path) == [f"line 2: has 3 cells; allowed: {len(COLUMNS)}, as the header"]
    path.write_bytes((",".join(COLUMNS) + "\n").encode() + b"\xff\xfe\n")
    assert "line 2: is no UTF-8 text" in faults(path)[0]
    path.write_text(",".join(COLUMNS) + '\n"open\n')
    assert "is no comma-separated line" in faults(path)[-1]
    path.write_bytes((",".join(COLUMNS) + "\n").encode() + b"x" * (MAX_LINE_BYTES + 10))
    assert "is longer than" in faults(path)[0]


def test_many_faults_are_counted_not_kept(tmp_path):
    path = write_csv(tmp_path / "bad.csv", *[{"isl": "x"}] * (SHOWN + 30))
    found = faults(path)
    assert len(found) == SHOWN + 1
    assert found[-1] == "and 30 more"


def test_quotes_byte_order_mark_and_blank_lines(tmp_path):
    path = write_csv(
        tmp_path / "rows.csv", {"silicon_data_source": 'a "b", silicon_concurrency=9'}, {"id": "r2"}
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\r\n\r\n"))
    rows = read_serving(path)
    assert [row.id for row in rows] == ["r1", "r2"]
    assert rows[0].concurrency == 9
    assert rows[1].line == 5


text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda s: s.strip() == s and s
)


@given(
    name=text,
    source=text,
    lengths=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    concurrency=st.integers(1, 10**6),
    measured=st.tuples(*[st.one_of(st.none(), st.floats(1e-3, 1e9))] * 2),
    tp=st.sampled_from([1, 2, 4, 8]),
)
def test_round_trip(tmp_path_factory, name, source, lengths, concurrency, measured, tp):
    row = one(
        tmp_path_factory.getbasetemp(),
        id=name,
        silicon_data_source=f"{source}; silicon_concurrency={concurrency}",
        isl=str(lengths[0]),
        osl=f"{lengths[1]:.1f}",
        tp_size=str(tp),
        moe_tp_size=str(tp),
        silicon_ttft_ms="" if measured[0] is None else repr(measured[0]),
        silicon_tpot_ms="" if measured[1] is None else repr(measured[1]),
    )
    assert row.id == name
    assert (row.isl, row.osl) == lengths
    assert (row.ttft_ms, row.tpot_ms) == measured
    assert row.layout == Parallelism(tp=tp)
    if "silicon_concurrency" not in source:
        assert row.concurrency == concurrency


@given(
    cells=st.dictionaries(
        st.sampled_from(COLUMNS),
        st.text(st.characters(blacklist_categories=("Cs",)), max_size=12),
        min_size=1,
        max_size=8,
    )
)
def test_nothing_but_faults_comes_of_noise(tmp_path_factory, cells):
    path = write_csv(tmp_path_factory.getbasetemp() / "noise.csv", cells)
    with contextlib.suppress(ConfigError):
        assert all(row.supported or row.reason for row in read_serving(path))


@given(text=st.text(max_size=80))
def test_free_text_never_fails(text):
    assert concurrency_in(text) is None or concurrency_in(text) > 0
    assert len(measured_in(text)) in (0, 10)
    assert isinstance(campaign_of(text), str)


def test_kinds_of_source():
    assert (
        campaign_of("source_file=2026-04-06.csv; model=R1; measured=2026-02-05T00:00:00Z") == "csv 2026-02-05"
    )
    assert campaign_of("source_file=kimi-gap.csv; silicon_concurrency=1") == "csv kimi-gap"
    assert measured_in("source_file=2026-04-06.csv") == "2026-04-06"
    assert concurrency_in("silicon_concurrency=0") is None
    assert CELLS["id"] == "r1"
