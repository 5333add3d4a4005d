"""FlexGen's linear program: where weights, cache and hidden states of one block lie (arXiv:2303.06865, 4.3).

For a given micro-batch and number of micro-batches, nine shares say what lies on the GPU, in host memory and
on disk: ``wg, wc, wn`` of the weights, ``cg, cc, cn`` of the cache, ``hg, hc, hn`` of the hidden states. Its
released cost model (``experimental/cost_model.py``) takes for a layer

    prefill  max(in + read, out + write, compute)
    decode   in + max(out, read, write, compute)

where ``in`` and ``out`` are host to GPU and back, ``read`` and ``write`` the disk, and minimises the time of
all layers and steps over the sequences of the block. Everything is linear in the shares. Here weights and
work are those of a mixture: all experts of a layer come, and a micro-batch reads those it meets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InfeasibleError
from moesim.throughput.engine import ENGINE, Engine
from moesim.throughput.flexgen import GPU_SHARE, HOST_SHARE, Block
from moesim.throughput.lightning import gpu_experts
from moesim.throughput.machine import Machine
from moesim.throughput.result import Workload
from moesim.throughput.shape import ACTIVATION, LayerShape

Floats = npt.NDArray[np.float64]

#: The shares, by what they place: weights, cache, hidden states; on the GPU, in host memory, on disk.
SHARES = tuple(f"{kind}{where}" for kind in "wch" for where in "gcn")


@dataclass(frozen=True, slots=True)
class Disk:
    """Storage that a placement may use; bytes and bytes/s."""

    capacity: float
    read: float
    write: float


@dataclass(frozen=True, slots=True)
class Placement:
    """What the program found.

    Parameters
    ----------
    block
        The policy, with shares of the GPU.
    shares
        All nine, by name.
    prefill_s, decode_s
        Of one layer, as its cost model has them.
    seconds_per_sequence
        What was minimised: all layers and steps, over the sequences of the block.
    """

    block: Block
    shares: Mapping[str, float]
    prefill_s: float
    decode_s: float
    seconds_per_sequence: float


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The program of one block; rows are linear in the nine shares.

    Parameters
    ----------
    prefill, decode
        ``[terms, 10]``: coefficients of the shares, and a constant; each layer takes the largest.
    memory
        ``[memories, 10]``: bytes used, likewise.
    limits
        ``[memories]``: bytes there are; GPU, host, disk.
    scale
        Layers over sequences.
    steps
        Decode steps.
    """

    prefill: Floats
    decode: Floats
    memory: Floats
    limits: Floats
    scale: float
    steps: int

    @classmethod
    def of(
        cls,
        shape: LayerShape,
        machine: Machine,
        workload: Workload,
        block: Block,
        disk: Disk | None = None,
        engine: Engine = ENGINE,
    ) -> Program:
        """Terms of a block: all in seconds of one layer, or bytes of the whole model."""
        batch, mu = float(block.batch), float(block.micro_batch)
        tokens, length = batch * workload.prompt_len, workload.prompt_len + workload.output_len
        cache = batch * workload.context * shape.kv_bytes
        hidden, token_hidden = (count * shape.hidden * ACTIVATION for count in (tokens, batch))
        work = shape.expert_flops + shape.dense_flops + shape.score_flops * workload.prompt_len / 2.0
        dense = max(shape.dense_bytes / machine.gpu_weights, shape.dense_flops * mu / machine.gpu_flops)
        computed = block.num_batches * (dense + float(gpu_experts(shape, machine, mu, engine)))
        attend = cache / machine.gpu_cache
        attend_away = cache / (machine.cpu_cache * engine.cpu_attention) if block.cpu_attention else attend
        come = 0.0 if block.cpu_attention else cache

        enter = _row(w=shape.layer_bytes, h=hidden) / machine.link_in
        leave = _row(c=tokens * shape.kv_bytes, h=hidden) / machine.link_out
        compute = _row(constant=tokens * work / (machine.gpu_flops * engine.prefill))
        step_in = _row(w=shape.layer_bytes, c=come, h=token_hidden) / machine.link_in
        step_out = _row(c=batch * shape.kv_bytes, h=token_hidden) / machine.link_out
        attention = _row(c=attend_away, constant=computed)
        attention[SHARES.index("cg")] = attend
        prefill, decode = [enter, leave, compute], [step_in + step_out, step_in + attention]

        all_weights = shape.layers * shape.layer_bytes
        all_cache = shape.layers * shape.kv_bytes * length * batch
        rows = mu * workload.prompt_len
        working = rows * (4.0 * ACTIVATION * shape.hidden + 2.0 * shape.kv_bytes)
        working += ACTIVATION * rows * shape.top_k * (shape.hidden + 3.0 * shape.intermediate)
        buffers = _row(w=2.0 * shape.layer_bytes, constant=working)
        memory = [_row(all_weights, all_cache, hidden, place=place) for place in "gcn"]
        memory[0] = memory[0] + buffers
        limits = [GPU_SHARE * machine.gpu_bytes, HOST_SHARE * machine.host_bytes]
        if disk is None:
            memory.pop()
        else:
            limits.append(disk.capacity)
            prefill[0] = enter + _row(w=shape.layer_bytes, h=hidden, place="n") / disk.read
            prefill[1] = leave + _row(c=tokens * shape.kv_bytes, h=hidden, place="n") / disk.write
            read = _row(w=shape.layer_bytes, c=cache, h=token_hidden, place="n") / disk.read
            write = _row(c=batch * shape.kv_bytes, h=token_hidden, place="n") / disk.write
            decode += [step_in + read, step_in + write]
        return cls(
            np.array(prefill),
            np.array(decode),
            np.array(memory),
            np.array(limits),
            shape.layers / batch,
            workload.output_len - 1,
        )

    def seconds(self, shares: Floats) -> Floats:
        """Prefill and decode of a layer, ``[2, ...]``, for shares ``[9, ...]``."""
        full = np.concatenate([shares, np.ones((1, *shares.shape[1:]))])
        terms = [np.max(np.tensordot(rows, full, axes=1), axis=0) for rows in (self.prefill, self.decode)]
        return np.array(terms)

    def objective(self, shares: Floats) -> Floats:
        """Seconds of all layers and steps, over the sequences."""
        prefill, decode = self.seconds(shares)
        return np.asarray(self.scale * (prefill + self.steps * decode))

    def fits(self, shares: Floats) -> npt.NDArray[np.bool_]:
        """Whether shares fit all memories, a billionth over is forgiven."""
        full = np.concatenate([shares, np.ones((1, *shares.shape[1:]))])
        used = np.tensordot(self.memory, full, axes=1)
        limits = self.limits.reshape(-1, *[1] * (shares.ndim - 1))
        return np.asarray(np.all(used <= limits * (1.0 + 1e-9), axis=0))


def place(
    shape: LayerShape,
    machine: Machine,
    workload: Workload,
    block: Block,
    disk: Disk | None = None,
    engine: Engine = ENGINE,
) -> Placement:
    """The best shares for a block; those that `block` has are ignored.

    Parameters
    ----------
    shape, machine, workload
        What runs where.
    block
        Micro-batch, number of micro-batches, and who attends.
    disk
        Storage; without it nothing lies there.
    engine
        What the software reaches.

    Raises
    ------
    InfeasibleError
        If no shares fit the memories.

    Examples
    --------
    The released runs of Table 5 of MoE-Lightning have 8 % of the weights on the GPU and all of the cache in
    host memory:

    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> shape, t4 = LayerShape.of(load_model("mixtral-8x7b")), Machine.of(load_hardware("t4"))
    >>> shares = place(shape, t4, Workload(418, 128), Block(8, 139)).shares
    >>> round(shares["wg"], 2), round(shares["cc"], 2)
    (0.08, 1.0)
    """
    from scipy.optimize import linprog

    program = Program.of(shape, machine, workload, block, disk, engine)
    n = len(SHARES)
    # Unknowns: nine shares, prefill and decode of a layer. The objective is seconds per sequence.
    cost = np.concatenate([np.zeros(n), [program.scale, program.scale * program.steps]])
    rows, limits = [], []
    for terms, place_of in ((program.prefill, 0), (program.decode, 1)):
        for term in terms:
            rows.append(np.concatenate([term[:n], -np.eye(2)[place_of]]))
            limits.append(-term[n])
    for used, limit in zip(program.memory, program.limits, strict=True):
        rows.append(np.concatenate([used[:n] / limit, [0.0, 0.0]]))
        limits.append(1.0 - used[n] / limit)
    whole = np.array([[float(name[0] == kind) for name in SHARES] + [0.0, 0.0] for kind in "wch"])
    bounds = [(0.0, 0.0 if disk is None and name[1] == "n" else 1.0) for name in SHARES]
    found = linprog(
        cost,
        np.array(rows),
        np.array(limits),
        whole,
        np.ones(3),
        [*bounds, (0.0, None), (0.0, None)],
        method="highs",
    )
    if found.status != 0:
        raise _nowhere(program, block)
    shares = np.clip(found.x[:n], 0.0, 1.0) + 0.0  # no -0.0
    named = dict(zip(SHARES, shares.tolist(), strict=True))
    prefill, decode = program.seconds(shares)
    chosen = Block(
        block.micro_batch, block.num_batches, named["wg"], named["cg"], named["hg"], block.cpu_attention
    )
    return Placement(chosen, named, float(prefill), float(decode), float(program.objective(shares)))


def _row(w: float = 0.0, c: float = 0.0, h: float = 0.0, *, constant: float = 0.0, place: str = "") -> Floats:
    """Coefficients of what lies off the GPU, or in one place only, and a constant."""
    parts = {"w": w, "c": c, "h": h}
    kept = place or "cn"
    return np.array([parts[name[0]] * (name[1] in kept) for name in SHARES] + [constant], dtype=np.float64)


def _nowhere(program: Program, block: Block) -> InfeasibleError:
    """What is short when everything lies in host memory: the GPU, if its buffers alone fill it, else that."""
    low = np.array([float(name[1] == "c") for name in SHARES] + [1.0])
    used = program.memory @ low
    which = 0 if used[0] > program.limits[0] else 1
    return InfeasibleError(
        f"a block of {block.num_batches} x {block.micro_batch} sequences does not fit",
        resource=f"memory {('gpu', 'host')[which]}",
        needed=float(used[which]),
        available=float(program.limits[which]),
    )
