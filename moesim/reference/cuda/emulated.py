"""The host as a CUDA device: the very same kernels, run by fibers. For tests, and slow."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import MoesimError
from moesim.reference.cuda.backend import Argument, Buffer, Event, KernelError, Launch, Stream, TensorMap
from moesim.reference.cuda.compile import Program
from moesim.reference.cuda.memory import address_of, out_of_memory, rows_and_columns
from moesim.reference.cuda.streams import HostEvent, HostStream, Queues

_ALIGNMENT = 256
#: Around every buffer, and in new ones: a NaN as bf16 and as float32, -1 as int32.
_GUARD = _ALIGNMENT
_POISON = 0xFF
_SWIZZLE_128B = 3
#: Its shared object says how the host's primitives keep a tensor map.
_TILES = Program(("prims_tensor.cuh",))


class EmulatedBackend:
    """Buffers in host memory between guards, kernels compiled by the host's compiler.

    Parameters
    ----------
    capability
        Of the device that is played: it decides which kernels are chosen.
    multiprocessors
        Of that device; few, as blocks run one after the other.
    memory_bytes
        That buffers may take together.
    seed
        Of the order between streams and between a block's threads; None for the order in which work comes.
    clock
        For events.
    """

    emulated = True

    def __init__(
        self,
        capability: tuple[int, int] = (9, 0),
        *,
        multiprocessors: int = 3,
        memory_bytes: int = 1 << 30,
        seed: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = "emulated"
        self.capability = capability
        self.multiprocessors = multiprocessors
        self.l2_bytes = 1 << 10
        self.launches = 0
        self._order = 0 if seed is None else seed
        self._clock = clock
        self._total = memory_bytes
        self._queues = Queues(seed)
        self._captured: list[Callable[[HostStream | None], None]] | None = None
        self._programs: dict[Program, Any] = {}
        self._memory: dict[int, npt.NDArray[np.uint8]] = {}
        self._used = 0

    def memory(self) -> tuple[int, int]:
        """Free bytes, and all bytes."""
        return self._total - self._used, self._total

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Buffer:
        """Poisoned memory between guards."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        free, _ = self.memory()
        if size > free:
            raise out_of_memory(self.name, size, free)
        block = np.full(size + 2 * _GUARD + _ALIGNMENT, _POISON, np.uint8)
        start = -block.ctypes.data % _ALIGNMENT
        block = block[start : start + size + 2 * _GUARD]
        address = block.ctypes.data + _GUARD
        self._memory[address] = block
        self._used += size
        return Buffer(address, tuple(shape), kind, block)

    def free(self, buffer: Buffer) -> None:
        """Give memory back; its guards must be as they were."""
        self.synchronize()
        self._check(buffer.owner)
        block = self._memory.pop(buffer.address)
        self._used -= block.nbytes - 2 * _GUARD

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Plain memory."""
        return np.empty(tuple(shape), dtype)

    def release(self, array: npt.NDArray[Any]) -> None:
        """Nothing to give back."""

    def copy(
        self, to: Buffer | npt.NDArray[Any], source: Buffer | npt.NDArray[Any], stream: Stream = None
    ) -> None:
        """Copy bytes, when the stream comes to it."""
        if to.nbytes != source.nbytes:
            raise MoesimError(f"a copy of {source.nbytes} bytes into {to.nbytes}")
        self._add(lambda: ctypes.memmove(address_of(to), address_of(source), to.nbytes), stream)

    def fill(self, buffer: Buffer, byte: int = 0, stream: Stream = None) -> None:
        """Set every byte."""
        self._add(lambda: ctypes.memset(buffer.address, byte, buffer.nbytes), stream)

    def load(self, program: Program) -> str:
        """Build a program for the host."""
        self._built(program)
        return ""

    def launch(self, launch: Launch, stream: Stream = None) -> None:
        """Run a kernel's blocks one after the other, then look at the guards of what it was given."""
        self._add(lambda: self._launch(launch), stream)

    def tensor_map(self, buffer: Buffer, box_rows: int, box_columns: int) -> TensorMap:
        """As the emulated copies of tiles read it."""
        words = np.zeros(16, np.uint64)
        rows, columns = rows_and_columns(buffer)
        refused = self._built(_TILES).library.encode_tensor_map(
            ctypes.c_void_p(words.ctypes.data),
            ctypes.c_void_p(buffer.address),
            ctypes.c_uint64(columns),
            ctypes.c_uint64(rows),
            ctypes.c_uint64(columns * buffer.dtype.itemsize),
            ctypes.c_uint32(box_columns),
            ctypes.c_uint32(box_rows),
            ctypes.c_uint32(_SWIZZLE_128B),
        )
        if refused:
            raise MoesimError(f"no tensor map of {rows} x {columns} in boxes of {box_rows} x {box_columns}")
        return TensorMap(words)

    def stream(self) -> Stream:
        """A further queue."""
        return self._queues.stream()

    def event(self) -> Event:
        """One that has not happened."""
        return HostEvent()

    def record(self, event: Event, stream: Stream = None, *, external: bool = False) -> None:
        """Put the event on the stream."""
        del external
        if self._captured is not None:
            self._captured.append(lambda s: self._queues.record(event, s, self._clock))
        else:
            self._queues.record(event, stream, self._clock)

    def wait(self, event: Event, stream: Stream = None) -> None:
        """Put a wait on the stream."""
        self._queues.wait(event, stream)

    def elapsed_s(self, start: Event, end: Event) -> float:
        """By the clock that was given."""
        self._queues.run(until=start)
        self._queues.run(until=end)
        return float(end.at - start.at)

    def synchronize(self) -> None:
        """Run all that waits."""
        self._queues.run()

    def capture(self, body: Callable[[Stream], None]) -> HostGraph:
        """Keep the work of one stream."""
        if self._captured is not None:
            raise MoesimError("a capture inside a capture")
        self._captured = []
        try:
            body(self._queues.own)
            return HostGraph(self._captured)
        finally:
            self._captured = None

    def facts(self) -> dict[str, object]:
        """What is known of no device."""
        return {"name": self.name, "emulated": True, "multiprocessors": self.multiprocessors}

    def close(self) -> None:
        """Look at all guards and give everything back."""
        self.synchronize()
        for block in self._memory.values():
            self._check(block)
        self._memory.clear()
        self._used = 0

    def _add(self, action: Callable[[], Any], stream: HostStream | None) -> None:
        if self._captured is not None:
            self._captured.append(lambda s: self._queues.add(action, s))
        else:
            self._queues.add(action, stream)

    def _built(self, program: Program) -> Any:  # noqa: ANN401
        from moesim.reference.cuda.emulate import build

        if program not in self._programs:
            self._programs[program] = build(program.text, dict(program.defines))
        return self._programs[program]

    def _launch(self, launch: Launch) -> None:
        from moesim.reference.cuda.emulate import EmulationError

        args = [_by_value(arg) for arg in launch.args]
        self.launches += 1
        try:
            self._built(launch.program).launch(
                launch.kernel, launch.grid, launch.threads, args, smem=launch.shared_bytes, order=self._order
            )
        except EmulationError as error:
            raise KernelError(f"kernel {launch.kernel}: {error}") from None
        for arg in launch.args:
            if isinstance(arg, Buffer):
                self._check(arg.owner, launch.kernel)

    def _check(self, block: npt.NDArray[np.uint8], kernel: str = "something") -> None:
        if (block[:_GUARD] != _POISON).any() or (block[-_GUARD:] != _POISON).any():
            raise KernelError(f"{kernel} wrote outside of a buffer of {block.nbytes - 2 * _GUARD} bytes")


class HostGraph:
    """Work to be put on a stream again."""

    def __init__(self, work: list[Callable[[HostStream | None], None]]) -> None:
        self._work = work

    def launch(self, stream: Stream = None) -> None:
        """Put it there."""
        for step in self._work:
            step(stream)

    def close(self) -> None:
        """Nothing to give back."""


def _by_value(arg: Argument) -> Any:  # noqa: ANN401
    if isinstance(arg, Buffer):
        return np.uint64(arg.address)
    if isinstance(arg, TensorMap):
        return (ctypes.c_uint64 * len(arg.words))(*arg.words.tolist())
    return arg
