"""What runs kernels: a CUDA device, or the host's emulation of one. The layer does not know which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from moesim.errors import MoesimError
from moesim.reference.cuda.compile import Program

#: A stream or an event, of whatever kind the backend uses. None as a stream: the backend's own.
Stream: TypeAlias = Any
Event: TypeAlias = Any


class KernelError(MoesimError):
    """A kernel failed; the device's memory can no longer be trusted."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Device memory, or a part of it.

    Parameters
    ----------
    address
        On the device.
    shape, dtype
        As numpy has them, row-major.
    owner
        What keeps the memory.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Buffer:
        """Part of the first axis.

        >>> Buffer(1024, (8, 4), np.dtype(np.uint16)).rows(2, 3)
        Buffer(address=1040, shape=(1, 4), dtype=dtype('uint16'))
        """
        row_bytes = self.nbytes // self.shape[0] if self.shape[0] else 0
        return Buffer(
            self.address + start * row_bytes, (stop - start, *self.shape[1:]), self.dtype, self.owner
        )


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A tensor map as kernels take it, by value.

    Parameters
    ----------
    words
        Its 128 bytes, uint64 ``[16]``.
    """

    words: npt.NDArray[np.uint64]


#: What a kernel is given. A plain int is an int32, a plain float a float32.
Argument: TypeAlias = Buffer | TensorMap | int | float | np.generic


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Launch:
    """A kernel with its arguments; grid and block have one dimension.

    Parameters
    ----------
    program
        Where the kernel is.
    kernel
        Its name.
    grid, threads
        Blocks, and threads of a block.
    args
        In the kernel's order.
    shared_bytes
        Dynamic shared memory of a block.
    """

    program: Program
    kernel: str
    grid: int
    threads: int
    args: tuple[Argument, ...]
    shared_bytes: int = 0


class Graph(Protocol):
    """Work that was captured, to be replayed with one call."""

    def launch(self, stream: Stream = None) -> None:
        """Replay it, asynchronously."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Backend(Protocol):
    """A device: its memory, streams and kernels. What takes a stream is asynchronous."""

    name: str
    emulated: bool
    capability: tuple[int, int]
    multiprocessors: int
    l2_bytes: int

    def memory(self) -> tuple[int, int]:
        """Free bytes, and all bytes."""
        ...

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Buffer:
        """Memory with anything in it."""
        ...

    def free(self, buffer: Buffer) -> None:
        """Give memory back."""
        ...

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Page-locked host memory, which copies reach at full speed and while kernels run."""
        ...

    def release(self, array: npt.NDArray[Any]) -> None:
        """Give page-locked memory back."""
        ...

    def copy(
        self, to: Buffer | npt.NDArray[Any], source: Buffer | npt.NDArray[Any], stream: Stream = None
    ) -> None:
        """Copy to, from or on the device."""
        ...

    def fill(self, buffer: Buffer, byte: int = 0, stream: Stream = None) -> None:
        """Set every byte."""
        ...

    def launch(self, launch: Launch, stream: Stream = None) -> None:
        """Start a kernel."""
        ...

    def load(self, program: Program) -> str:
        """Compile and load a program if it is not yet; the compiler's log."""
        ...

    def tensor_map(self, buffer: Buffer, box_rows: int, box_columns: int) -> TensorMap:
        """Of bf16 rows with 128-byte swizzle and zeros outside; all but the last axis are taken as rows."""
        ...

    def stream(self) -> Stream:
        """A further stream."""
        ...

    def event(self) -> Event:
        """An event that can be timed."""
        ...

    def record(self, event: Event, stream: Stream = None, *, external: bool = False) -> None:
        """Let an event happen after all that is on the stream; `external`: in a graph, but seen outside."""
        ...

    def wait(self, event: Event, stream: Stream = None) -> None:
        """Let what comes next on the stream wait for the event as it was last recorded."""
        ...

    def elapsed_s(self, start: Event, end: Event) -> float:
        """Seconds between two events that have happened."""
        ...

    def synchronize(self) -> None:
        """Wait for everything."""
        ...

    def capture(self, body: Callable[[Stream], None]) -> Graph:
        """Record what `body` puts on the stream it is given, instead of running it."""
        ...

    def facts(self) -> dict[str, object]:
        """Of the machine, ready for JSON."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def upload(backend: Backend, array: npt.NDArray[Any]) -> Buffer:
    """Device memory with a copy of an array in it."""
    buffer = backend.empty(array.shape, array.dtype)
    backend.copy(buffer, np.ascontiguousarray(array))
    backend.synchronize()
    return buffer


def download(backend: Backend, buffer: Buffer) -> npt.NDArray[Any]:
    """Copy of device memory, after everything that is under way."""
    backend.synchronize()
    array = np.empty(buffer.shape, buffer.dtype)
    backend.copy(array, buffer)
    backend.synchronize()
    return array


def open_backend(*, emulated: bool = False, ordinal: int = 0) -> Backend:
    """Open the CUDA device, or the emulation of one.

    Raises
    ------
    ConfigError
        If there is no driver, no package, no such device, or one of before 2020.
    """
    if emulated:
        from moesim.reference.cuda.emulated import EmulatedBackend

        return EmulatedBackend()
    from moesim.reference.cuda.device import CudaBackend

    return CudaBackend(ordinal)
