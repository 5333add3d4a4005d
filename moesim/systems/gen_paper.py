"""MoE-Gen's own testbeds and settings: what its tables were measured on, and with.

Nothing here is fitted to a throughput. The link's rate is what the same authors print for their A5000
machine (24 GB/s, Table 1 of MoE-Infinity, arXiv 2401.14361). The pace of the CPU's attention is what section
4.2 says of it: cached bytes are gone through about as fast as PCIe 4.0 carries them, which Figure 3 puts at
32 GB/s. The split between CPU and GPU is Table 10's where it has one.
"""

from __future__ import annotations

from dataclasses import replace

from moesim.errors import ConfigError, Fault
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.throughput.gen import Space, plan
from moesim.throughput.gen_box import StreamBox
from moesim.throughput.gen_work import ModelWork
from moesim.throughput.result import Plan, Workload

#: Hardware files of the testbeds (Table 3).
TESTBEDS = {"C1": "a5000-epyc-256gb", "C2": "a5000-epyc-512gb", "C3": "a6000-epyc-480gb"}
LINK_BYTES_PER_S = 24e9
CPU_PACE_BYTES_PER_S = 32e9
#: Pieces of attention and of an expert, and the expert buffer of a layer, as the released engine sets them
#: (``Mixtral_Initializer.py``, ``deepseekv2_initializer.py``); the buffer of half a layer is DeepSeek-R1's.
RELEASED = Space(attention_batches=(64,), expert_batches=(2048,), expert_slots=(0.5, 1.0))
#: Part of the sequences on the CPU at 512 and 256 tokens, by testbed and model (Table 10). C1's is left out:
#: at six tenths the link would have to carry more than the figure of section 5.3 leaves time for.
SPLITS = {("C2", "mixtral-8x7b", 512, 256): 0.6, ("C2", "mixtral-8x22b", 512, 256): 0.7}


def bed_box(
    name: str,
    *,
    link_bytes_per_s: float = LINK_BYTES_PER_S,
    cpu_pace_bytes_per_s: float = CPU_PACE_BYTES_PER_S,
    host_bytes: float | None = None,
) -> StreamBox:
    """A testbed of the paper by its name there.

    Examples
    --------
    >>> bed_box("C1").host_bytes
    256000000000.0
    """
    if name not in TESTBEDS:
        raise ConfigError(Fault("unknown testbed", "testbed", name, ", ".join(TESTBEDS)))
    return StreamBox.of(load_hardware(TESTBEDS[name])).but(
        link_bytes_per_s=link_bytes_per_s, cpu_pace_bytes_per_s=cpu_pace_bytes_per_s, host_bytes=host_bytes
    )


def paper_plan(
    box: StreamBox,
    bed: str,
    model: str,
    mode: str,
    workload: Workload,
    *,
    split: float | None = None,
) -> Plan:
    """What MoE-Gen reaches on one of its testbeds.

    GPU alone copies whole slots to the GPU at each step, hybrid what is filled of them. The code has one
    rule for both; which held when the tables were made is read off the *ratio* of their rows at 256 and 1024
    tokens: 2.1 and 2.0 without the CPU, as slots double, 1.66 and 1.60 with it, as contexts grow by 1.6.

    Parameters
    ----------
    box, bed
        The testbed, and its name for the printed split.
    model
        Of the catalogue.
    mode
        ``G`` for the GPU alone, ``H`` for hybrid.
    workload
        Prompt, output, and sequences where the paper fixes them.
    split
        Part of the sequences on the CPU; None for the printed one, else the best.
    """
    if mode not in ("G", "H"):
        raise ConfigError(Fault("unknown mode", "mode", mode, "G, H"))
    work = ModelWork.of(load_model(model))
    share = split
    if share is None:
        share = SPLITS.get((bed, model, workload.prompt_len, workload.output_len))
    if mode == "G" or work.latent:
        space = replace(RELEASED, cpu_shares=(0.0,), copies="reserved")
    else:
        space = RELEASED if share is None else replace(RELEASED, cpu_shares=(share,))
    return plan(work, box, workload, space)


def dataset_hours(best: Plan, sequences: int) -> float:
    """Hours for a data set (Table 4), the model's way from storage not counted.

    An output of one token is the prompt's own: no decode.
    """
    seconds = sequences * best.prompt_len / best.prefill_tokens_per_s
    if best.output_len > 1:
        seconds += sequences * best.output_len / best.decode_tokens_per_s
    return seconds / 3600.0
