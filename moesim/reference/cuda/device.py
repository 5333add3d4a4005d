"""A CUDA device through the driver's own interface (``cuda.bindings.driver``)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, MoesimError
from moesim.reference.cuda import compile as nvrtc
from moesim.reference.cuda.backend import Argument, Buffer, Event, Launch, Stream, TensorMap
from moesim.reference.cuda.driver import Driver
from moesim.reference.cuda.memory import address_of, out_of_memory, rows_and_columns

#: Shared memory that a kernel gets without asking.
_PLAIN_SHARED = 48 * 1024


class CudaBackend:
    """One GPU, its primary context and a stream of our own.

    Parameters
    ----------
    ordinal
        Which of the devices that the driver shows.

    Raises
    ------
    ConfigError
        If there is no driver, package or device, or the device is too old.
    """

    emulated = False

    def __init__(self, ordinal: int = 0) -> None:
        self._driver = driver = Driver()
        api = driver.api
        count = driver("cuDeviceGetCount")
        if not 0 <= ordinal < count:
            raise ConfigError(Fault("no such CUDA device", value=ordinal, allowed=f"0 to {count - 1}"))
        self._device = driver("cuDeviceGet", ordinal)
        self.name = driver("cuDeviceGetName", 128, self._device).split(b"\0")[0].decode()
        kinds = api.CUdevice_attribute
        self.capability = (
            self._attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        try:
            nvrtc.architecture(self.capability)
        except ConfigError as error:
            raise ConfigError(error.faults, self.name) from None
        self.multiprocessors = self._attribute(kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.l2_bytes = self._attribute(kinds.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
        self._shared_limit = self._attribute(kinds.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        driver("cuCtxSetCurrent", driver("cuDevicePrimaryCtxRetain", self._device))
        self._close = contextlib.ExitStack()
        self._close.callback(driver, "cuDevicePrimaryCtxRelease", self._device)
        self._own = self.stream()
        self._memory: set[int] = set()
        self._pinned: set[int] = set()
        self._modules: dict[nvrtc.Program, tuple[Any, str]] = {}
        self._functions: dict[tuple[nvrtc.Program, str, int], Any] = {}
        self._ready: weakref.WeakKeyDictionary[Launch, _Ready] = weakref.WeakKeyDictionary()

    def memory(self) -> tuple[int, int]:
        """Free bytes, and all bytes."""
        free, total = self._driver("cuMemGetInfo")
        return int(free), int(total)

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Buffer:
        """Device memory, aligned to at least 256 bytes."""
        kind = np.dtype(dtype)
        buffer = Buffer(0, tuple(shape), kind)
        size = max(buffer.nbytes, 1)
        code, *values = self._driver.tried("cuMemAlloc", size)
        if code == self._driver.api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise out_of_memory(self.name, size, self.memory()[0])
        self._driver.check("cuMemAlloc", code)
        address = int(values[0])
        self._memory.add(address)
        return Buffer(address, buffer.shape, kind)

    def free(self, buffer: Buffer) -> None:
        """Give memory back."""
        self._memory.remove(buffer.address)
        self._driver("cuMemFree", buffer.address)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Page-locked memory of the host."""
        kind = np.dtype(dtype)
        size = max(int(np.prod(shape, dtype=np.int64)) * kind.itemsize, 1)
        code, *values = self._driver.tried("cuMemHostAlloc", size, 0)
        if code == self._driver.api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            pages = os.sysconf("SC_PAGE_SIZE")
            raise out_of_memory("the host (page-locked)", size, os.sysconf("SC_AVPHYS_PAGES") * pages)
        self._driver.check("cuMemHostAlloc", code)
        block: Any = (ctypes.c_uint8 * size).from_address(int(values[0]))
        self._pinned.add(int(values[0]))
        return np.ndarray(tuple(shape), kind, buffer=block)

    def release(self, array: npt.NDArray[Any]) -> None:
        """Give page-locked memory back; the array must not be used again."""
        self._pinned.remove(array.ctypes.data)
        self._driver("cuMemFreeHost", array.ctypes.data)

    def copy(
        self, to: Buffer | npt.NDArray[Any], source: Buffer | npt.NDArray[Any], stream: Stream = None
    ) -> None:
        """Copy bytes; beside kernels only from and to page-locked memory."""
        if to.nbytes != source.nbytes:
            raise MoesimError(f"a copy of {source.nbytes} bytes into {to.nbytes}")
        if not to.nbytes:
            return
        sides = isinstance(to, Buffer), isinstance(source, Buffer)
        name = {
            (True, False): "cuMemcpyHtoDAsync",
            (False, True): "cuMemcpyDtoHAsync",
            (True, True): "cuMemcpyDtoDAsync",
        }[sides]
        self._driver(name, address_of(to), address_of(source), to.nbytes, self._on(stream))

    def fill(self, buffer: Buffer, byte: int = 0, stream: Stream = None) -> None:
        """Set every byte."""
        self._driver("cuMemsetD8Async", buffer.address, byte, buffer.nbytes, self._on(stream))

    def load(self, program: nvrtc.Program) -> str:
        """Compile and load a program; the compiler's log."""
        if program not in self._modules:
            arch = nvrtc.architecture(self.capability, tensor=program.tensor)
            made = nvrtc.compiled(program, arch)
            module = self._driver("cuModuleLoadData", made.cubin)
            self._close.callback(self._driver, "cuModuleUnload", module)
            self._modules[program] = module, made.log
        return self._modules[program][1]

    def launch(self, launch: Launch, stream: Stream = None) -> None:
        """Start a kernel."""
        if (ready := self._ready.get(launch)) is None:
            ready = self._ready[launch] = _Ready(self._function(launch), launch.args)
        self._driver.recent.append(launch.kernel)
        self._driver(
            "cuLaunchKernel",
            ready.function,
            *(launch.grid, 1, 1),
            *(launch.threads, 1, 1),
            launch.shared_bytes,
            self._on(stream),
            ctypes.addressof(ready.pointers),
            0,
        )

    def tensor_map(self, buffer: Buffer, box_rows: int, box_columns: int) -> TensorMap:
        """Ask the driver for one."""
        rows, columns = rows_and_columns(buffer)
        return TensorMap(
            self._driver.tensor_map(buffer.address, (columns, rows), columns * 2, (box_columns, box_rows))
        )

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        made = self._driver("cuStreamCreate", int(self._driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._close.callback(self._driver, "cuStreamDestroy", made)
        return made

    def event(self) -> Event:
        """An event with a time."""
        made = self._driver("cuEventCreate", int(self._driver.api.CUevent_flags.CU_EVENT_DEFAULT))
        self._close.callback(self._driver, "cuEventDestroy", made)
        return made

    def record(self, event: Event, stream: Stream = None, *, external: bool = False) -> None:
        """Put the event on the stream, or into the graph that is captured."""
        flags = self._driver.api.CUevent_record_flags
        kind = flags.CU_EVENT_RECORD_EXTERNAL if external else flags.CU_EVENT_RECORD_DEFAULT
        self._driver("cuEventRecordWithFlags", event, self._on(stream), int(kind))

    def wait(self, event: Event, stream: Stream = None) -> None:
        """Put a wait on the stream."""
        self._driver("cuStreamWaitEvent", self._on(stream), event, 0)

    def elapsed_s(self, start: Event, end: Event) -> float:
        """Wait for the second event; seconds since the first, to half a microsecond."""
        self._driver("cuEventSynchronize", end)
        return float(self._driver("cuEventElapsedTime", start, end)) * 1e-3

    def synchronize(self) -> None:
        """Wait for the device."""
        self._driver("cuCtxSynchronize")
        self._driver.recent.clear()

    def capture(self, body: Callable[[Stream], None]) -> DeviceGraph:
        """Capture what `body` puts on our stream."""
        mode = self._driver.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._driver("cuStreamBeginCapture", self._own, mode)
        try:
            body(self._own)
        except BaseException:
            _, graph = self._driver.tried("cuStreamEndCapture", self._own)
            if graph:
                self._driver.tried("cuGraphDestroy", graph)
            raise
        graph = self._driver("cuStreamEndCapture", self._own)
        try:
            return DeviceGraph(self._driver, self._driver("cuGraphInstantiate", graph, 0), self._own)
        finally:
            self._driver("cuGraphDestroy", graph)

    def facts(self) -> dict[str, object]:
        """What the driver says of the device."""
        kinds = self._driver.api.CUdevice_attribute
        named = {
            "clock_khz": kinds.CU_DEVICE_ATTRIBUTE_CLOCK_RATE,
            "memory_clock_khz": kinds.CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE,
            "memory_bus_bits": kinds.CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
            "copy_engines": kinds.CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT,
            "shared_bytes": kinds.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        }
        version = int(self._driver("cuDriverGetVersion"))
        return {
            "name": self.name,
            "emulated": False,
            "capability": list(self.capability),
            "multiprocessors": self.multiprocessors,
            "l2_bytes": self.l2_bytes,
            "memory_bytes": self.memory()[1],
            "driver_cuda": f"{version // 1000}.{version % 1000 // 10}",
            "nvrtc": ".".join(map(str, nvrtc.compiler()[1])),
            **{name: self._attribute(kind) for name, kind in named.items()},
        }

    def close(self) -> None:
        """Give everything back; after a failed kernel there is nothing left to give."""
        with contextlib.suppress(MoesimError):
            for address in sorted(self._memory):
                self._driver("cuMemFree", address)
            for address in sorted(self._pinned):
                self._driver("cuMemFreeHost", address)
            self._close.close()
        self._memory.clear()
        self._pinned.clear()

    def _attribute(self, kind: Any) -> int:  # noqa: ANN401
        return int(self._driver("cuDeviceGetAttribute", kind, self._device))

    def _on(self, stream: Stream) -> Stream:
        return self._own if stream is None else stream

    def _function(self, launch: Launch) -> Any:  # noqa: ANN401
        key = launch.program, launch.kernel, launch.shared_bytes
        if key not in self._functions:
            self.load(launch.program)
            if launch.shared_bytes > self._shared_limit:
                raise ConfigError(
                    Fault(
                        f"{launch.kernel} needs more shared memory than a block of {self.name} may have",
                        value=launch.shared_bytes,
                        allowed=f"up to {self._shared_limit} bytes: another kernel variant",
                    )
                )
            function = self._driver(
                "cuModuleGetFunction", self._modules[launch.program][0], launch.kernel.encode()
            )
            if launch.shared_bytes > _PLAIN_SHARED:
                kind = self._driver.api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._driver("cuFuncSetAttribute", function, kind, launch.shared_bytes)
            self._functions[key] = function
        return self._functions[key]


class DeviceGraph:
    """A captured graph, ready to run."""

    def __init__(self, driver: Driver, ready: Any, own: Any) -> None:  # noqa: ANN401
        self._driver, self._ready, self._own = driver, ready, own

    def launch(self, stream: Stream = None) -> None:
        """Run it on a stream."""
        self._driver.recent.append("a graph")
        self._driver("cuGraphLaunch", self._ready, self._own if stream is None else stream)

    def close(self) -> None:
        """Give it back."""
        self._driver("cuGraphExecDestroy", self._ready)


class _Ready:
    """A function with its arguments in memory, as the driver reads them at each launch."""

    def __init__(self, function: Any, args: Sequence[Argument]) -> None:  # noqa: ANN401
        self.function = function
        self.values = [_value(arg) for arg in args]
        self.pointers = (ctypes.c_void_p * len(args))(*map(ctypes.addressof, self.values))


def _value(arg: Argument) -> Any:  # noqa: ANN401
    if isinstance(arg, Buffer):
        return ctypes.c_uint64(arg.address)
    if isinstance(arg, TensorMap):
        return (ctypes.c_uint64 * len(arg.words))(*arg.words.tolist())
    if isinstance(arg, np.generic):
        kind: Any = arg.dtype
        return np.ctypeslib.as_ctypes_type(kind)(arg.item())
    return ctypes.c_int32(arg) if isinstance(arg, int) else ctypes.c_float(arg)
