"""Layouts that stand in for recorded ones: only where those cannot be, by name, and without measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_rows import POOLS, ROW, write_csv

from moesim.engine.memory import memory_use
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import LayerKinds, Precision
from moesim.validate import predict_rows, read_serving
from moesim.validate.rows import Pool
from moesim.validate.stand_ins import MOST, with_stand_ins

RACK = replace(ROW, model="deepseek-r1", hardware="gb200-nvl72", system="gb200", dtype="fp8")


def pools(prefill: Parallelism, decode: Parallelism):
    return replace(RACK, mode="disagg", layout=None, prefill=Pool(prefill), decode=Pool(decode))


@pytest.mark.parametrize(
    ("recorded", "evaluated"),
    [(Parallelism(tp=36), 32), (Parallelism(tp=72), 64), (Parallelism(dp=48, ep=48), 32)],
)
def test_degrees_that_do_not_divide_the_model(recorded, evaluated):
    row = with_stand_ins(replace(RACK, layout=recorded))
    assert row.evaluated == (Parallelism(dp=evaluated, ep=evaluated),)
    assert row.layout == recorded
    (repair,) = row.repairs
    assert "does not divide" in repair
    assert repair.endswith(f"evaluated as DP {evaluated} with EP {evaluated}")
    assert "cannot be evaluated" in row.doubtful
    assert predict_rows([row])[0].status == "predicted"


def test_a_dense_model_has_no_experts_to_spread():
    row = with_stand_ins(replace(ROW, model="llama-3.1-8b", layout=Parallelism(tp=3)))
    assert row.evaluated == (Parallelism(dp=2),)


def test_a_worker_too_small_for_its_weights_grows_until_they_fit():
    row = with_stand_ins(pools(Parallelism(), Parallelism()))
    (layout, same), model, machine = row.evaluated, load_model("deepseek-r1"), load_hardware("gb200-nvl72")
    assert layout == same
    assert [text.split(":")[0] for text in row.repairs] == ["prefill", "decode"]

    def room(layout):
        precision = Precision.of(model, "fp8", "fp8")
        use = memory_use(model, LayerKinds.of(model), layout, precision, machine, utilisation=0.92)
        return use.cache_budget_bytes

    assert room(layout) > 0 >= room(Parallelism(tp=layout.tp // 2))


def test_an_aggregated_engine_too_small_stays_and_does_not_fit():
    row = with_stand_ins(replace(RACK, layout=Parallelism()))
    assert not row.stand_ins
    assert predict_rows([row])[0].status == "infeasible"


def test_what_can_be_is_left_alone():
    assert with_stand_ins(ROW) is ROW
    wide = pools(Parallelism(dp=8, ep=8), Parallelism(dp=32, ep=32))
    assert with_stand_ins(wide) is wide
    unsupported = replace(RACK, layout=Parallelism(tp=36), status="unsupported", reason="why")
    assert with_stand_ins(unsupported) is unsupported


def test_an_earlier_doubt_is_kept_beside_the_repair():
    row = with_stand_ins(replace(RACK, layout=Parallelism(tp=36), doubtful="a rack", repairs=("first",)))
    assert row.doubtful == "a rack"
    assert row.repairs[0] == "first"
    assert len(row.repairs) == 2


@given(tp=st.integers(1, 96), dp=st.integers(1, 96), ep=st.integers(1, 96))
def test_a_stand_in_can_be_laid_out_and_is_no_larger(tp, dp, ep):
    recorded = Parallelism(tp=tp, dp=dp, ep=ep)
    row = with_stand_ins(replace(RACK, layout=recorded))
    (layout,) = row.evaluated
    model = load_model(row.model)
    if not recorded.faults(model):
        assert layout == recorded
    elif row.stand_ins:
        assert recorded.world / 2 < layout.world <= recorded.world
        assert layout.tp == 1
        assert bool(layout.faults(model)) == (layout.world > 256)


@given(tp=st.integers(0, 3), dp=st.integers(0, 3))
def test_a_grown_worker_keeps_its_data_parallelism(tp, dp):
    recorded = Parallelism(tp=2**tp, dp=2**dp, ep=2 ** (tp + dp))
    layout, _ = with_stand_ins(pools(recorded, recorded)).evaluated
    assert layout.dp == recorded.dp
    assert layout.ep == (layout.stage if recorded.ep > 1 else 1)
    assert recorded.world <= layout.world <= max(MOST, recorded.world)


def test_the_reader_records_them(tmp_path):
    ones = {
        f"{side}_{name}": "1"
        for side in ("prefill", "decode")
        for name in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    }
    (row,) = read_serving(write_csv(tmp_path / "rows.csv", POOLS | ones))
    assert row.prefill.layout == Parallelism()
    assert row.evaluated[0].tp > 1
    assert row.repairs
    blank = {"silicon_ttft_ms": "", "silicon_tpot_ms": ""}
    (same,) = read_serving(write_csv(tmp_path / "blank.csv", POOLS | ones | blank))
    assert same.stand_ins == row.stand_ins
