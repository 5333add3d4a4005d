"""Parts of a step by what they depend on, timed one by one as a deployment times them together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.cost import Rates, message_seconds, op_times
from moesim.engine.deployment import Deployment
from moesim.engine.eager import launches
from moesim.engine.routing import DECODE, PREFILL
from moesim.model.types import GroupedQuery
from moesim.ops import Batch, Op, OpTable, StepWork, step_work
from moesim.ops.attention import MIXED
from moesim.serving.longest import longest_over_mean, stretched

F8 = npt.NDArray[np.float64]

#: What an operation depends on: all tokens of a lane; tokens that the head looks at; decoding sequences and
#: their context; prompts, their chunks and what lies before them.
TOKENS, GIVEN, DECODING, READING = range(4)
#: Names of blocks that depend on the tokens of a lane alone, in the order of `Tables.dense_s`.
BLOCKS = ("attention", "experts", "other")
SHARED = "shared"


@dataclass(slots=True, eq=False)
class Parts:
    """Parts of a deployment's step.

    Parameters
    ----------
    deployment
        What is timed.
    queries
        Tokens of each decoding sequence in a step: one, and those drafted.
    spread
        Contexts of decoding sequences over their mean, as `moesim.serving.longest.spread_of` has them; empty
        for equal ones.
    """

    deployment: Deployment
    queries: float = 1.0
    spread: F8 = field(default_factory=lambda: np.zeros(0))
    _rows: dict[tuple[int, str], list[int]] = field(init=False)
    _rates: dict[tuple[int, str], Rates] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        # A batch, and the same with its decoding sequences, its prompts or their chunks changed.
        probe = Batch.of(
            sequences=np.array([4.0, 5.0, 4.0, 4.0]),
            context=np.array([100.0, 110.0, 100.0, 100.0]),
            prompts=np.array([2.0, 2.0, 3.0, 2.0]),
            chunk=np.array([30.0, 30.0, 30.0, 40.0]),
            past=np.array([50.0, 50.0, 60.0, 50.0]),
            queries=self.queries,
        )
        blocks = {entry.op: entry.block for entry in self.deployment.step(probe).entries()}
        self._rows = {}
        for row, (op, _) in enumerate(self._work(probe).table.ops):
            part = _part_of(op)
            block = blocks[op.name] if part == TOKENS else ""
            if op.name.startswith("shared_"):
                self._rows.setdefault((part, SHARED), []).append(row)
            self._rows.setdefault((part, block), []).append(row)

    def dense(self, tokens: F8) -> F8:
        """Seconds of `BLOCKS` that depend on a lane's tokens alone, ``[3, tokens]``."""
        batch = self._of(tokens)
        found = np.stack([self._seconds(TOKENS, batch, block) for block in BLOCKS])
        deployment = self.deployment
        for message, count in self._work(batch).table.messages:
            each = message_seconds(message, deployment.hardware, deployment.backend)
            found[0] += deployment.traits.communication * count * each
        return found

    def shared(self, tokens: F8) -> F8:
        """Seconds of shared experts, which `dense` has among those of the block of experts."""
        return self._seconds(TOKENS, self._of(tokens), SHARED)

    def heads(self, given: F8) -> F8:
        """Seconds of the head and of sampling for so many tokens."""
        return self._seconds(GIVEN, self._of(given))

    def decoding(self, sequences: F8, context: F8) -> F8:
        """Seconds of the attention of decoding sequences."""
        batch = Batch.of(sequences=sequences, context=context, queries=self.queries, prompts=1.0, chunk=1.0)
        return self._seconds(DECODING, batch) * self._stretched(sequences)

    def _stretched(self, sequences: F8) -> F8:
        """What unequal contexts add where a kernel is known to give each of them to one core."""
        d = self.deployment
        cores, attention = d.hardware.device.processor.cores, d.model.layers[0].attention
        if not (len(self.spread) and cores and d.one_attention and isinstance(attention, GroupedQuery)):
            return np.ones(len(sequences))
        kv_heads = max(1.0, attention.kv_heads / d.layout.tp)
        return stretched(sequences, kv_heads, cores, longest_over_mean(self.spread, sequences))

    def beside(self, sequences: F8, context: F8) -> F8:
        """The same where the lane reads prompts in the same step."""
        if not self.deployment.one_attention:
            return self.decoding(sequences, context)
        batch = Batch.of(sequences=sequences, context=context, queries=self.queries, prompts=1.0, chunk=1.0)
        d = self.deployment
        work = step_work(d.model, d.layout, batch, d.precision, d.kinds, together=True)
        rows = tuple((op, count) for op, count in work.table.ops if op.name == MIXED)
        if not rows:
            return self.decoding(sequences, context)
        table, device = OpTable(rows, (), batch.size), d.hardware.device
        times = op_times(table, device, Rates.of(table, device, d.choice))
        return np.asarray((table.counts * times.seconds).sum(axis=0))

    def reading(self, prompts: F8, read: F8, seen: F8) -> F8:
        """Seconds of the attention of prompts.

        Parameters
        ----------
        prompts, read
            Prompts, and their tokens of this step, all together.
        seen
            Tokens before each of these on average, half of the chunk that it is in among them. Where that is
            less than half of a chunk, formulas are continued: only for tables.
        """
        chunk = read / prompts
        batch = Batch.of(
            sequences=1.0,
            context=1.0,
            queries=self.queries,
            prompts=prompts,
            chunk=chunk,
            past=seen - chunk / 2.0,
        )
        return self._seconds(READING, batch)

    def smallest(self) -> float:
        """Seconds of a step of one token: what every step takes."""
        one = np.ones(1)
        experts = exchanged_s(self.deployment, one, DECODE)
        return float((self.dense(one).sum() + self.heads(one) + experts.sum())[0])

    def least(self) -> F8:
        """Seconds in which the host starts the kernels of steps that decode, read, or do both, ``[3]``."""
        batches = Batch.decode(1.0, 1.0), Batch.prefill(1.0, 1.0), Batch.of(1.0, 1.0, 1.0, 1.0)
        each = self.deployment.launch_s
        return np.array([each * launches(self._work(batch)) if each else 0.0 for batch in batches])

    def _of(self, tokens: F8) -> Batch:
        """So many tokens, half of them read, all of which the head looks at."""
        sequences = tokens / 2.0 / self.queries
        return Batch.of(sequences, 1.0, prompts=tokens / 2.0, chunk=1.0, queries=self.queries)

    def _work(self, batch: Batch) -> StepWork:
        d = self.deployment
        return step_work(d.model, d.layout, batch, d.precision, d.kinds)

    def _seconds(self, part: int, batch: Batch, block: str = "") -> F8:
        key = part, block
        rows = self._rows.get(key)
        if not rows:
            return np.zeros(batch.size)
        ops = self._work(batch).table.ops
        table = OpTable(tuple(ops[row] for row in rows), (), batch.size)
        device = self.deployment.hardware.device
        if key not in self._rates:
            self._rates[key] = Rates.of(table, device, self.deployment.choice)
        return np.asarray((table.counts * op_times(table, device, self._rates[key]).seconds).sum(axis=0))


def exchanged_s(deployment: Deployment, tokens: F8, phase: int) -> F8:
    """Seconds of dispatch, routed experts and combine for tokens of all lanes, ``[3, tokens]``."""
    factor = deployment.traits.communication
    found = np.zeros((3, len(tokens)))
    for _, step in deployment.expert_steps(phase):
        values = step.at(tokens)
        found += [factor * values["dispatch_s"], values["experts_s"], factor * values["combine_s"]]
    return found


def _part_of(op: Op) -> int:
    """What an operation depends on, from a batch and three changes of it."""
    values = [op.flops, op.weight_bytes, op.activation_bytes, op.cache_bytes]
    values += list(op.shape.sizes) if op.shape is not None else []
    table = np.array([np.broadcast_to(v, (4,)) for v in values])
    decoding, reading, chunk = (table[:, 1:] != table[:, :1]).any(axis=0)
    if decoding and not (reading or chunk):
        return DECODING
    if (reading or chunk) and not decoding:
        return READING
    return TOKENS if chunk or not decoding else GIVEN


__all__ = ["BLOCKS", "DECODE", "PREFILL", "Parts", "exchanged_s"]
