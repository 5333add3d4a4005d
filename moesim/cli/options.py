"""Options that several commands share, in the spelling of serving engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from moesim.hardware import Hardware
    from moesim.model import Model
    from moesim.trace import Routing

ModelName = Annotated[
    str, typer.Option("--model", help="Catalogue name (`moesim model list`), a config.json, or its folder.")
]
HardwareName = Annotated[
    str, typer.Option("--hardware", help="Catalogue name (`moesim hardware list`) or YAML file.")
]
Nodes = Annotated[
    int | None,
    typer.Option("--nodes", min=1, help="Nodes (servers); the machine as it is sold if not given."),
]
TracePath = Annotated[
    str | None,
    typer.Option("--trace", help="Routing trace or load counts; without it, see --routing."),
]
Tp = Annotated[
    int,
    typer.Option(
        "--tensor-parallel-size",
        "--tp",
        help="Tensor parallelism: devices that share every matrix of attention.",
    ),
]
Pp = Annotated[
    int, typer.Option("--pipeline-parallel-size", "--pp", help="Pipeline parallelism: stages of layers.")
]
Dp = Annotated[
    int,
    typer.Option(
        "--data-parallel-size",
        "--dp",
        help="Data parallelism: copies of attention, each with requests of its own.",
    ),
]
Ep = Annotated[
    int,
    typer.Option(
        "--expert-parallel-size",
        "--ep",
        help="Expert parallelism: ranks, of dp x tp, that whole experts are spread over.",
    ),
]
InputLen = Annotated[float, typer.Option("--input-len", help="Prompt tokens per request.")]
OutputLen = Annotated[float, typer.Option("--output-len", help="Output tokens per request.")]
Dtype = Annotated[
    str,
    typer.Option("--dtype", help="Weights: auto (the checkpoint's), bf16, fp8, int8, int4, mxfp4, nvfp4."),
]
KvDtype = Annotated[str, typer.Option("--kv-cache-dtype", help="Cache: auto (16 bits), bf16, fp16, fp8.")]
Overlap = Annotated[
    str,
    typer.Option(
        "--overlap",
        help="none; two-batch: hide communication behind compute; streams: attention beside experts.",
    ),
]
AssumedRouting = Annotated[
    str, typer.Option("--routing", help="Expert loads without a trace: typical of recorded ones, or uniform.")
]
Dispatch = Annotated[
    str,
    typer.Option(
        "--dispatch",
        "--ep-dispatch-algorithm",
        help="How a token chooses among replicas: even, sglang-static, sglang-dynamic, vllm-ascend, lp.",
    ),
]
Chunk = Annotated[
    float,
    typer.Option(
        "--max-num-batched-tokens",
        help="Tokens of prompts that a data-parallel rank reads in one step, at most.",
    ),
]
MaxSeqs = Annotated[
    float, typer.Option("--max-num-seqs", help="Sequences a data-parallel rank decodes at most.")
]
Utilisation = Annotated[
    float, typer.Option("--gpu-memory-utilization", help="Fraction of device memory the engine may use.")
]
RecvInterval = Annotated[
    float,
    typer.Option("--scheduler-recv-interval", help="Decode steps after which SGLang looks for new requests."),
]
Backend = Annotated[
    str, typer.Option("--backend", help="Whose measured kernels and constants: vllm, sglang or trtllm.")
]
SpeculativeTokens = Annotated[
    int | None,
    typer.Option(
        "--speculative-tokens",
        help="Tokens drafted per sequence and step (MTP, EAGLE). If not given: none, but of a model with a "
        "prediction head the interval allows for some.",
    ),
]
AcceptanceRate = Annotated[
    float | None,
    typer.Option(
        "--acceptance-rate",
        help="How often a draft is accepted, once those before it were. If not given: 0.85, and the interval "
        "reaches from none to all.",
    ),
]
EnforceEager = Annotated[bool, typer.Option("--enforce-eager", help="Steps run without CUDA graphs.")]
CalibrationPath = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        help="File of `moesim calibrate serving`, or none for physics alone; the shipped one if not given.",
    ),
]
NumExperts = Annotated[
    int | None, typer.Option("--num-experts", help="Experts per layer, for traces that do not say.")
]


N = TypeVar("N", int, float)


def numbers(text: str | None, option: str, kind: type[N]) -> list[N] | None:
    """Read numbers with commas between.

    Raises
    ------
    ConfigError
        Naming the option and the part that is no number.

    Examples
    --------
    >>> numbers("1,0.5", "--rank-speeds", float)
    [1.0, 0.5]
    """
    if text is None:
        return None
    from moesim.errors import ConfigError, Fault

    found: list[N] = []
    for part in text.split(","):
        try:
            found.append(kind(part))
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise ConfigError(Fault("is no number", option, part, f"{what}, with commas between")) from None
    return found


def read_all(
    model: str, hardware: str | None, nodes: int | None, *traces: str | None, num_experts: int | None = None
) -> tuple[Model, Hardware | None, list[Routing | None]]:
    """Load everything a command names, and report every fault of all of them together."""
    from moesim.errors import ConfigError, Fault, TraceError
    from moesim.hardware import load_hardware
    from moesim.model import load_model
    from moesim.trace import load_trace

    faults: list[Fault] = []

    def gather(error: ConfigError | TraceError) -> None:
        faults.extend(
            Fault(f"{error.source}: {fault}" if error.source else str(fault)) for fault in error.faults
        )

    found_model, found_hardware = None, None
    try:
        found_model = load_model(model)
    except ConfigError as error:
        gather(error)
    if hardware is not None:
        try:
            found_hardware = load_hardware(hardware, nodes=nodes)
        except ConfigError as error:
            gather(error)
    routings: list[Routing | None] = []
    for path in traces:
        try:
            routings.append(
                load_trace(path, shape=found_model, num_experts=num_experts) if path is not None else None
            )
        except (ConfigError, TraceError) as error:
            gather(error)
    if faults or found_model is None:
        raise ConfigError(faults)
    return found_model, found_hardware, routings
