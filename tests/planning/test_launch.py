"""Launch commands read back through the flags engines document."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout import Disaggregated, ExpertMap, Parallelism, Workers
from moesim.model import load_model
from moesim.placement import read_plan
from moesim.planning.launch import launch, places, script, unsupported, write_launch
from moesim.planning.launch.setting import vendor_of
from moesim.planning.types import Candidate
from moesim.prediction import Engine
from tests.planning.engine_flags import read_back

ENGINES = ("vllm", "sglang", "trtllm")
NAMES = ("gpt-oss-20b", "deepseek-v3", "qwen3-30b-a3b", "llama-3.1-8b")


@pytest.fixture(scope="module")
def models():
    return {name: load_model(name) for name in NAMES}


@pytest.fixture(scope="module")
def machine():
    return load_hardware("h200-sxm-8")


def _candidate(models, machine, layout, name="deepseek-v3", replicas=1, redundant=0, **engine):
    nodes = -(-layout.world // machine.devices_per_node)
    return Candidate(models[name], machine.with_nodes(nodes), layout, replicas, Engine(**engine), redundant)


degrees = st.sampled_from([1, 2, 4, 8])
layouts = st.builds(
    lambda tp, dp, pp, ep: Parallelism(tp, pp, dp, ep if (tp * dp) % ep == 0 else 1),
    degrees, degrees, st.sampled_from([1, 1, 2, 4]), st.sampled_from([1, 2, 8, 16, 64]),
)  # fmt: skip
engines = st.fixed_dictionaries(
    {
        "backend": st.sampled_from(ENGINES),
        "dtype": st.sampled_from(["auto", "bf16", "fp8", "int4"]),
        "kv_cache_dtype": st.sampled_from(["auto", "bf16", "fp8"]),
        "overlap": st.sampled_from(["none", "two-batch"]),
        "chunk_tokens": st.sampled_from([2048, 8192]),
        "max_sequences": st.sampled_from([64, 1024]),
        "speculative_tokens": st.sampled_from([None, 0, 1, 3]),
        "enforce_eager": st.booleans(),
    }
)


def _devices(engine, flags):
    """Devices an instance takes by its flags, as the engine counts them."""
    if engine == "vllm":
        return (
            flags.tensor_parallel_size * (flags.pipeline_parallel_size or 1) * (flags.data_parallel_size or 1)
        )
    if engine == "sglang":
        own = 1 if flags.enable_dp_attention else flags.dp_size
        return flags.tp_size * flags.pp_size * own
    return flags.tp_size * flags.pp_size


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_lines_parse_and_degrees_multiply_to_the_devices(models, machine, data):
    name = data.draw(st.sampled_from(NAMES))
    layout, options = data.draw(layouts), data.draw(engines)
    if models[name].moe is None:
        layout = replace(layout, ep=1)
    if data.draw(st.booleans()):
        pools = Workers(data.draw(layouts), data.draw(st.integers(1, 3))), Workers(layout, 2)
        if models[name].moe is None:
            pools = replace(pools[0], layout=replace(pools[0].layout, ep=1)), pools[1]
        layout = Disaggregated(*pools)
    candidate = _candidate(models, machine, layout, name, data.draw(st.integers(1, 9)), **options)
    if unsupported(candidate):
        with pytest.raises(InfeasibleError):
            launch(candidate)
        return
    found = launch(candidate, longest_tokens=5000)
    engine = options["backend"]
    started = 0
    for command in found.commands:
        if command.role == "router":
            continue
        env, before, flags = read_back(engine, command.text)
        asked = next(p.layout for p in places(candidate) if p.role == command.role)
        assert _devices(engine, flags) == asked.world
        if command.devices:
            assert env["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, command.devices))
            assert len(command.devices) == asked.world < 8
        else:
            assert asked.world % 8 == 0 or asked.world > 8
        assert command.nodes == -(-asked.world // 8)
        _check[engine](flags, asked, command, candidate, before)
        started += command.instances if command.node in (0, None) else 0
    workers = 1 if isinstance(layout, Parallelism) else layout.prefill.count + layout.decode.count
    assert started == workers * candidate.replicas == len(places(candidate))


def _check_vllm(flags, asked, command, candidate, before):
    assert not before
    assert flags.enable_expert_parallel == (asked.ep > 1)
    assert flags.max_num_batched_tokens == candidate.engine.chunk_tokens
    assert flags.max_num_seqs <= flags.max_num_batched_tokens
    assert flags.max_model_len >= 5000
    rank = asked.tp * asked.pp
    if command.nodes > 1 and asked.dp == 1:
        assert (flags.nnodes, flags.node_rank) == (command.nodes, command.node)
        assert flags.headless == (command.node > 0)
    elif command.nodes > 1 and rank <= 8:
        assert flags.data_parallel_address == "$HEAD_NODE"
        assert (flags.data_parallel_start_rank or 0) == command.node * (8 // rank)
        assert flags.data_parallel_size_local * rank <= 8
        assert flags.headless == (command.node > 0)
        if command.node == command.nodes - 1:
            assert (flags.data_parallel_start_rank or 0) + flags.data_parallel_size_local == asked.dp
    elif command.nodes > 1:
        assert flags.data_parallel_backend == "ray"
    roles = {"prefill": "kv_producer", "decode": "kv_consumer"}
    assert flags.kv_transfer_config.get("kv_role") == roles.get(command.role)
    drafts = candidate.engine.speculative_tokens
    assert flags.speculative_config.get("num_speculative_tokens") == (drafts or None)


def _check_sglang(flags, asked, command, candidate, before):
    assert not before
    # What SGLang asserts: its data parallelism divides its tensor parallelism.
    if flags.enable_dp_attention:
        assert flags.tp_size % flags.dp_size == 0
        assert flags.dp_size == asked.dp > 1
        assert flags.tp_size // flags.dp_size == asked.tp
        assert flags.chunked_prefill_size // flags.dp_size == candidate.engine.chunk_tokens
        assert flags.max_running_requests // flags.dp_size == candidate.engine.max_sequences
    assert flags.tp_size % flags.ep_size == 0
    assert flags.ep_size == asked.ep
    if flags.moe_a2a_backend is not None:
        assert flags.ep_size == flags.tp_size
    assert (flags.nnodes, flags.node_rank) == (command.nodes, command.node)
    assert asked.world % flags.nnodes == 0
    # Static memory leaves out activations, which vLLM's fraction includes.
    assert 0 < flags.mem_fraction_static < candidate.engine.memory_utilisation
    assert flags.disaggregation_mode == (command.role if command.role != "serve" else "null")
    drafts = candidate.engine.speculative_tokens
    if drafts:
        assert flags.speculative_num_draft_tokens == flags.speculative_num_steps + 1 == drafts + 1
    else:
        assert flags.speculative_algorithm is None


def _check_trtllm(flags, asked, command, candidate, before):
    assert flags.tp_size == asked.tp * asked.dp
    if candidate.model.moe is not None:
        assert flags.tp_size % flags.ep_size == 0
    if command.nodes > 1:
        assert before[0] == "srun"
        assert int(before[before.index("--ntasks") + 1]) == asked.world
    options = YAML(typ="safe").load(launch(candidate, longest_tokens=5000).files[flags.config].decode())
    assert options["enable_attention_dp"] == (asked.dp > 1)
    assert 0 < options["kv_cache_config"]["free_gpu_memory_fraction"] < 1 or not _fits(candidate, asked)
    assert ("cache_transceiver_config" in options) == (command.role != "serve")
    drafts = candidate.engine.speculative_tokens
    assert options.get("speculative_config", {}).get("max_draft_len") == (drafts or None)


def _fits(candidate, layout):
    from moesim.planning.launch.setting import Setting

    return Setting(candidate, "").memory(layout).cache_budget_bytes > 0


_check = {"vllm": _check_vllm, "sglang": _check_sglang, "trtllm": _check_trtllm}


@pytest.mark.parametrize("engine", ENGINES)
def test_instances_share_no_device_and_no_port(models, machine, engine):
    pools = Disaggregated(Workers(Parallelism(tp=2), 1), Workers(Parallelism(tp=2), 1))
    candidate = _candidate(models, machine, pools, "qwen3-30b-a3b", 5, backend=engine)
    found = places(candidate)
    taken = [(p.node + i, d) for p in found for i in range(p.nodes) for d in (p.devices or range(8))]
    assert len(taken) == len(set(taken)) == 20
    # Five pairs of four devices: two on a node, so three nodes are rented.
    assert max(node for node, _ in taken) + 1 == candidate.devices // 8 == 3
    ports = [
        (p.node, read_back(engine, c.text)[2].port)
        for p in found
        for c in launch(candidate).commands
        if c.role == p.role and c.devices == p.devices
    ]
    assert len(ports) == len(set(ports)) == 10
    router = launch(candidate).commands[-1]
    assert router.role == "router"
    for place in found:
        name = f"${place.role.upper()}_{place.index}"
        where = router.text if engine != "trtllm" else launch(candidate).files["disagg_config.yaml"].decode()
        assert name in where


@given(st.sampled_from([1, 2, 4, 8, 16, 24, 32]), st.integers(1, 20), st.data())
def test_nodes_are_those_that_are_paid_for(models, machine, world, replicas, data):
    candidate = _candidate(models, machine, Parallelism(dp=world), "gpt-oss-20b", replicas)
    found = places(candidate)
    assert max(p.node + p.nodes for p in found) * 8 == candidate.devices
    if world == 8:
        split = data.draw(st.sampled_from([(1, 1, 4), (2, 3, 2), (4, 1, 4), (2, 1, 2)]))
        tp, count, last = split
        pools = Disaggregated(Workers(Parallelism(tp=tp), count), Workers(Parallelism(tp=last), 1))
        candidate = _candidate(models, machine, pools, "gpt-oss-20b", replicas)
        assert max(p.node + p.nodes for p in places(candidate)) * 8 == candidate.devices


def test_a_lines_shell_expands_only_addresses(models, machine, tmp_path):
    for engine in ENGINES:
        candidate = _candidate(
            models, machine, Parallelism(dp=16, ep=16), backend=engine, speculative_tokens=1
        )
        text = script(launch(candidate, served="/models/deep seek"))
        stubs = 'vllm(){ printf \'%s\\n\' "$@"; }; python(){ vllm "$@"; }; srun(){ vllm "$@"; }\n'
        done = subprocess.run(
            ["bash", "-euc", stubs + text],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={"HEAD_NODE": "10.0.0.1", "PATH": "/usr/bin:/bin"},
        )
        assert "/models/deep seek" in done.stdout
        assert "$" not in done.stdout
        assert engine == "trtllm" or "10.0.0.1" in done.stdout


def _placement(model, ranks, redundant, seed=0):
    rng = np.random.default_rng(seed)
    layers, experts = len(model.moe_layer_ids), model.num_experts
    rows = []
    for _ in range(layers):
        table = ExpertMap.contiguous(1, experts, ranks, redundant).physical_to_logical[0]
        rows.append(rng.permutation(experts)[table])
    return ExpertMap(np.array(rows), experts, ranks)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_placement_file_is_the_engines_own_format(models, machine, tmp_path, engine):
    model = models["gpt-oss-20b"]
    plan = _placement(model, 8, 8)
    layout = Parallelism(dp=8, ep=8)
    candidate = _candidate(models, machine, layout, "gpt-oss-20b", backend=engine, redundant=8)
    found = launch(candidate, placement=plan, dispatch="sglang-static")
    folder = tmp_path / "new"
    written = write_launch(found, folder)
    assert written[-1].name == "commands.sh"
    path = next(p for p in written if p.name.startswith("expert-placement"))
    again = read_plan(str(path), model, 8)
    assert np.array_equal(again.physical_to_logical, plan.physical_to_logical)
    _, _, flags = read_back(engine, found.commands[0].text)
    if engine == "sglang":
        assert flags.init_expert_location == path.name
        assert (flags.ep_num_redundant_experts, flags.ep_dispatch_algorithm) == (8, "static")
        assert not flags.enable_eplb
    elif engine == "vllm":
        assert flags.enable_eplb
        assert flags.eplb_config == {"num_redundant_experts": 8}
        assert any("49572" in note for note in found.notes)
    else:
        options = YAML(typ="safe").load((folder / flags.config).read_text())
        assert options["moe_config"] == {"backend": "WIDEEP", "load_balancer": path.name}
    assert json.loads(json.dumps(found.to_dict()))["engine"] == engine
    # Writing again replaces, and leaves nothing else behind.
    assert write_launch(found, folder) == written
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in written)


def test_without_a_placement_the_engine_balances_by_itself(models, machine):
    layout = Parallelism(dp=8, ep=8)
    for engine in ENGINES:
        candidate = _candidate(models, machine, layout, "gpt-oss-20b", backend=engine, redundant=8)
        found = launch(candidate)
        _, _, flags = read_back(engine, found.commands[0].text)
        if engine == "trtllm":
            balancer = YAML(typ="safe").load(found.files[flags.config].decode())["moe_config"][
                "load_balancer"
            ]
            assert balancer == {"num_slots": 40, "layer_updates_per_iter": 1}
        else:
            assert flags.enable_eplb


def test_a_placement_of_something_else_is_refused(models, machine):
    candidate = _candidate(models, machine, Parallelism(dp=8, ep=8), "gpt-oss-20b", redundant=8)
    with pytest.raises(ConfigError, match="ranks"):
        launch(candidate, placement=_placement(models["gpt-oss-20b"], 4, 8))
    with pytest.raises(ConfigError, match="spares"):
        launch(candidate, placement=_placement(models["gpt-oss-20b"], 8, 0))


@pytest.mark.parametrize(
    ("engine", "layout", "name", "said"),
    [
        ("vllm", Parallelism(dp=8, ep=4), "gpt-oss-20b", "1 or dp x tp = 8, not 4"),
        ("trtllm", Parallelism(tp=2, dp=4), "gpt-oss-20b", "tp must be 1"),
        ("trtllm", Parallelism(dp=8), "llama-3.1-8b", "take replicas instead"),
        ("sglang", Parallelism(dp=16), "llama-3.1-8b", "take replicas instead"),
    ],
)
def test_what_an_engine_cannot_do_is_said(models, machine, engine, layout, name, said):
    candidate = _candidate(models, machine, layout, name, backend=engine)
    assert said in unsupported(candidate)
    with pytest.raises(InfeasibleError, match=said):
        launch(candidate)


def test_other_vendors(models):
    amd = load_hardware("mi300x-8")
    candidate = _candidate(models, amd, Parallelism(tp=4), replicas=2, backend="vllm")
    env, _, _ = read_back("vllm", launch(candidate).commands[0].text)
    assert env == {"HIP_VISIBLE_DEVICES": "0,1,2,3"}
    assert "NVIDIA" in unsupported(replace(candidate, engine=Engine(backend="trtllm")))
    wide = _candidate(models, amd, Parallelism(dp=8, ep=8), backend="sglang")
    assert read_back("sglang", launch(wide).commands[0].text)[2].moe_a2a_backend == "mori"


@pytest.mark.parametrize(
    ("name", "vendor"),
    [
        ("gb200-nvl72", "nvidia"), ("h100-duplex-4", "nvidia"), ("dgx-spark", "nvidia"), ("mi300x-8", "amd"),
        ("hbm-pim", "amd"), ("cloudmatrix384", "npu"), ("ascend-910b-8", "npu"), ("gaudi3-8", "other"),
        ("tpu-v5e-256", "other"), ("dojo-wafer", "other"), ("groq-lpu-rack", "other"), ("m4-max", "other"),
    ],
)  # fmt: skip
def test_a_machine_s_software_goes_by_its_maker_not_its_kind(models, name, vendor):
    machine = load_hardware(name)
    assert vendor_of(machine) == vendor
    candidate = _candidate(models, machine, Parallelism(), name="gpt-oss-20b")
    assert unsupported(candidate) == ""
    noted = any("vllm is not known to run on" in note for note in launch(candidate).notes)
    assert noted == (vendor == "other")
    trtllm = _candidate(models, machine, Parallelism(), name="gpt-oss-20b", backend="trtllm")
    assert ("TensorRT-LLM is for NVIDIA's devices" in unsupported(trtllm)) == (vendor != "nvidia")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_wide_checkpoint_is_quantised_while_it_loads(models, machine, engine):
    for name, dtype, quantised, noted in (
        ("qwen3-30b-a3b", "fp8", True, False),
        ("qwen3-30b-a3b", "auto", False, False),
        ("qwen3-30b-a3b", "int4", False, True),
        ("deepseek-v3", "fp8", False, False),
        ("deepseek-v3", "bf16", False, True),
    ):
        found = launch(_candidate(models, machine, Parallelism(tp=8), name, backend=engine, dtype=dtype))
        flags = read_back(engine, found.commands[0].text)[2]
        assert (flags.quantization == "fp8") == quantised, (name, dtype)
        assert any("needs a checkpoint in" in note for note in found.notes) == noted, (name, dtype)


def test_a_folder_that_cannot_be_written_is_named(models, machine, tmp_path):
    found = launch(_candidate(models, machine, Parallelism(tp=8), "gpt-oss-20b"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        write_launch(found, tmp_path / "file")
    with pytest.raises(ConfigError, match="does not exist"):
        write_launch(found, tmp_path / "no" / "folder")
