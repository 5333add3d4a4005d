"""`moesim calibrate tables` and `moesim validate kernels` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from table_files import gemm_table, write


def test_calibrate_writes_a_file_that_a_description_can_name(tmp_path, moesim):
    root = gemm_table(tmp_path / "tables")
    (tmp_path / "kernels").mkdir()
    out = tmp_path / "kernels" / "mine.json"
    code, text, _ = moesim("calibrate", "tables", root, "--device", "h200-sxm-8", "-o", out, "--json")
    document = json.loads(text)
    assert code == 0
    assert document["fits"][0]["left_out"]["median"] < 0.02
    from moesim.files import data_dir
    from moesim.hardware import load_hardware

    yaml = (
        (data_dir("hardware") / "h200-sxm-8.yaml").read_text().replace("kernels: h200-sxm", "kernels: mine")
    )
    (tmp_path / "mine.yaml").write_text(yaml)
    assert list(load_hardware(tmp_path / "mine.yaml").device.processor.kernels) == [("gemm", "bf16", "vllm")]
    code, text, _ = moesim("calibrate", "tables", root, "--device", "h200_sxm")
    assert code == 0
    assert "gemm" in text


def test_validate_compares_with_the_shipped_surfaces(tmp_path, moesim):
    root = gemm_table(tmp_path)
    code, text, _ = moesim("validate", "kernels", root, "--json")
    (row,) = json.loads(text)["rows"]
    assert code == 0
    assert (row["device"], row["kernel"], row["dtype"], row["backend"], row["n"]) == (
        "h200_sxm", "gemm", "bf16", "vllm", 126)  # fmt: skip
    assert row["modelled_by"].startswith("vllm ")
    assert 0 < row["median_abs_error"] < 1
    code, text, _ = moesim("validate", "kernels", root, "--device", "h200-sxm-8")
    assert code == 0
    assert "1 kernels, 126 measurements" in text


@pytest.mark.parametrize("command", [("calibrate", "tables"), ("validate", "kernels")])
def test_wrong_input_is_named(tmp_path, moesim, command):
    def refused(*words):
        code, _, err = moesim(*command, *words)
        assert code == 2
        return err

    assert "is no folder" in refused(tmp_path / "nowhere", "--device", "h200-sxm-8")
    (tmp_path / "empty").mkdir()
    assert "holds no kernel tables" in refused(tmp_path / "empty", "--device", "h200-sxm-8")
    root = gemm_table(tmp_path / "t")
    err = refused(root, "--device", "h200-sxm-8", "--backend", "tgi")
    assert "tgi" in err
    assert "has no tables here" in refused(root, "--device", "b200-sxm-8")
    folder = root / "h200_sxm"
    (folder / "mla_bmm" / "vllm-1").mkdir(parents=True)
    (folder / "mla_bmm" / "vllm-1" / "mla_bmm_perf.parquet").write_bytes(b"PAR1 no")
    write(folder / "attention" / "vllm-1" / "context_attention_perf.parquet", {"latency": [1.0]})
    err = refused(root, "--device", "h200-sxm-8")
    assert "is no Parquet" in err
    assert "num_heads: column is missing" in err


def test_a_file_of_kernels_is_checked(tmp_path):
    from moesim.errors import ConfigError
    from moesim.hardware.kernels import read_file

    bad = Path(tmp_path / "bad.json")
    fit = {
        "kernel": "gemm",
        "dtype": "bf16",
        "backend": "vllm",
        "version": "1",
        "floor_us": 1,
        "sharpness": 1,
    }
    fit |= {"axes": [{"low": 0, "step": 1, "knots": 2}], "steps": [1]}
    whole = {"schema_version": 1, "name": "x", "source": "", "licence": "", "fits": [fit]}
    for text, message in (
        ("{", "no JSON"),
        ("{}", "fits"),
        (json.dumps(whole), "needs one axis for each"),
        (json.dumps(whole | {"fits": [fit | {"kernel": "gem"}]}), "no kernel"),
        (json.dumps(whole | {"fits": [fit | {"axes": 3 * fit["axes"]}]}), "one for each of 8 knots"),
    ):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_file(bad)
