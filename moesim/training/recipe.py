"""How a job trains: batch, precision, what is recomputed, what is sharded, what is overlapped."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.errors import Fault, nearest
from moesim.ops.primitives import ACTIVATION_BYTES

SCHEDULES = ("1f1b", "interleaved", "dualpipe")
RECOMPUTE = ("none", "selective", "full")
PRECISIONS = ("bf16", "fp8")
#: Rows that experts are given: as routed, every expert as many as its capacity, or rounded up to blocks.
PADDING = ("none", "capacity", "block")
#: How tokens of one sequence are split for attention: keys travel in a ring, or heads are exchanged
#: (Ulysses).
CONTEXT = ("ring", "ulysses")
#: How tokens reach experts: a copy for each expert; one per node and rank that has any (DeepSeek-V3); all to
#: everyone, who picks; the faster of the first and the last.
DISPATCH = ("exchange", "two-level", "gather", "cheapest")
#: How experts run: a library's product for each expert and matrix, or one grouped kernel for all of a rank,
#: as measured in serving engines.
EXPERT_KERNELS = ("products", "grouped")
#: Schedules of a MoE layer in chunks, of `moesim.overlap`; each takes its best number of chunks.
LAYER_SCHEDULES = ("none", "tutel", "fsmoe")
#: What can run behind computation.
OVERLAPS = ("dp", "tp", "cp", "ep")
#: Rows of a block of MegaBlocks' kernels (arXiv:2211.15841, section 5.1.2).
BLOCK_ROWS = 128


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one iteration does.

    Parameters
    ----------
    global_batch, seq, micro_batch
        Sequences of an iteration, tokens of each, and sequences that a data-parallel rank works on at once.
    zero
        What data-parallel ranks share out: 0 nothing, 1 optimiser states, 2 gradients too, 3 parameters too.
    recompute
        ``selective`` drops what elementwise operations can make again, ``full`` keeps layer inputs only.
    schedule
        One of `SCHEDULES`.
    precision
        ``fp8`` multiplies in 8 bits; weights, gradients and states stay as with ``bf16``.
    capacity_factor
        Tokens an expert takes over its even share; None drops none.
    padding
        One of `PADDING`.
    imbalance
        Tokens of the busiest expert-parallel rank over the mean, where none are dropped.
    context
        One of `CONTEXT`.
    overlap
        Which traffic runs behind computation, of `OVERLAPS`. Traffic of `tp` and `ep` is then cut into
        `tiles` pieces that each wait for one piece of computation.
    tiles
        Pieces of overlapped traffic.
    gradient_bytes
        Of an accumulated gradient: 4 as Megatron's main gradients, 2 in pure 16 bits.
    reduce_bytes
        Of a gradient on its way.
    state_bytes
        Of a parameter's optimiser states: 12 are a master copy and two moments in 32 bits.
    dropout
        Whether there is dropout, as in GPT models of 2022.
    fused
        Whether attention is one kernel and residuals are added inside norms; else scores are stored, and
        every elementwise operation is a kernel of its own, as before FlashAttention.
    dispatch
        One of `DISPATCH`.
    dispatch_bytes
        Of an element on its way to the experts; back it has 16 bits.
    duplicated
        Whether each tensor-parallel rank sends all tokens of its group, and not its part of them alone:
        DeepSpeed before it dropped duplicate tokens (arXiv:2303.06318).
    stash
        Whether full recomputation keeps what traffic brought instead of sending it again (ibid.).
    layer_schedule
        One of `LAYER_SCHEDULES`; instead of ``ep`` in `overlap`.
    expert_kernel
        One of `EXPERT_KERNELS`.
    """

    global_batch: int
    seq: int
    micro_batch: int = 1
    zero: int = 1
    recompute: str = "none"
    schedule: str = "1f1b"
    precision: str = "bf16"
    capacity_factor: float | None = None
    padding: str = "none"
    imbalance: float = 1.0
    context: str = "ring"
    overlap: tuple[str, ...] = ("dp",)
    tiles: int = 8
    gradient_bytes: float = 4.0
    reduce_bytes: float = 4.0
    state_bytes: float = 12.0
    dropout: bool = False
    fused: bool = True
    dispatch: str = "exchange"
    dispatch_bytes: float = ACTIVATION_BYTES
    duplicated: bool = False
    stash: bool = False
    layer_schedule: str = "none"
    expert_kernel: str = "products"

    def micro_batches(self, dp: int) -> int:
        """Micro-batches of a data-parallel rank."""
        return self.global_batch // (dp * self.micro_batch)

    def faults(self, dp: int = 1, pp: int = 1, vpp: int = 1) -> list[Fault]:
        """Everything that keeps this recipe from being followed."""
        found = [
            Fault("must be positive", f"--{name}", value)
            for name, value in (
                ("global-batch", self.global_batch),
                ("seq", self.seq),
                ("micro-batch", self.micro_batch),
            )
            if value < 1
        ]
        for name, value, known in (
            ("recompute", self.recompute, RECOMPUTE),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("padding", self.padding, PADDING),
            ("context", self.context, CONTEXT),
            ("dispatch", self.dispatch, DISPATCH),
            ("layer-schedule", self.layer_schedule, LAYER_SCHEDULES),
            ("expert-kernel", self.expert_kernel, EXPERT_KERNELS),
        ):
            if value not in known:
                near = ", ".join(nearest(value, known))
                found.append(
                    Fault(
                        f"unknown{'; nearest: ' + near if near else ''}", f"--{name}", value, ", ".join(known)
                    )
                )
        found += [
            Fault("unknown", "--overlap", value, ", ".join(OVERLAPS))
            for value in self.overlap
            if value not in OVERLAPS
        ]
        if self.zero not in (0, 1, 2, 3):
            found.append(Fault("unknown", "--zero", self.zero, "0, 1, 2, 3"))
        if self.capacity_factor is not None and not self.capacity_factor > 0:
            found.append(Fault("must be positive", "--capacity-factor", self.capacity_factor))
        if self.layer_schedule != "none" and "ep" in self.overlap:
            found.append(Fault("comes instead of a schedule of layers", "--overlap", "ep", "dp, tp, cp"))
        if self.padding == "capacity" and self.capacity_factor is None:
            found.append(Fault("needs a capacity", "--padding", self.padding, "--capacity-factor"))
        if not self.imbalance >= 1:
            found.append(Fault("must be at least 1", "--imbalance", self.imbalance))
        if self.zero == 3 and pp > 1:
            found.append(Fault("is not combined with pipeline stages here", "--zero", 3, "--pp 1"))
        if not found:
            found += self._batch_faults(dp, pp, vpp)
        return found

    def _batch_faults(self, dp: int, pp: int, vpp: int) -> list[Fault]:
        each = dp * self.micro_batch
        if self.global_batch % each:
            return [
                Fault(f"is not divided by dp x micro-batch = {each}", "--global-batch", self.global_batch)
            ]
        count = self.micro_batches(dp)
        if self.schedule == "interleaved" and count % pp:
            return [Fault(f"interleaving needs micro-batches ({count}) that pp divides", "--pp", pp)]
        if self.schedule != "interleaved" and vpp > 1:
            return [
                Fault(
                    "virtual stages are of the interleaved schedule", "--vpp", vpp, "--schedule interleaved"
                )
            ]
        if self.schedule == "dualpipe" and (pp % 2 or count % 2 or count < 2 * pp):
            return [
                Fault(f"dualpipe needs an even pp and 2 pp micro-batches or more, even ({count})", "--pp", pp)
            ]
        return []
