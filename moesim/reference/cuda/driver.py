"""Calls to the CUDA driver: what went wrong, said once and clearly."""

from __future__ import annotations

import collections
import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, MoesimError
from moesim.reference.cuda.backend import KernelError
from moesim.reference.cuda.compile import missing_package

#: Errors after which the driver answers every call with the same error.
_STICKY = (
    "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION", "CUDA_ERROR_MISALIGNED_ADDRESS", "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE", "CUDA_ERROR_INVALID_PC", "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
)  # fmt: skip
_ABSENT = "run on a machine with an NVIDIA GPU and its driver"


class Driver:
    """The driver's functions by name, their results checked.

    Attributes
    ----------
    api
        ``cuda.bindings.driver``.
    recent
        Kernels that were started since the device was last waited for: one of them is to blame.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver as api
        except ImportError:
            raise ConfigError(missing_package()) from None
        self.api: Any = api
        self.recent: collections.deque[str] = collections.deque(maxlen=8)
        self._failure: KernelError | None = None
        try:
            (code,) = api.cuInit(0)
        # What is raised where the library is absent differs between releases of the package.
        except (RuntimeError, OSError, ImportError):
            raise ConfigError(
                Fault("no CUDA driver (libcuda.so.1 cannot be loaded)", allowed=_ABSENT)
            ) from None
        if code != api.CUresult.CUDA_SUCCESS:
            said = _words(api, code)
            raise ConfigError(Fault(f"no CUDA device: the driver says {said}", allowed=_ABSENT))

    def __call__(self, name: str, *args: Any) -> Any:  # noqa: ANN401 - the driver's types
        """Call a function; its result, its results, or None.

        Raises
        ------
        KernelError
            If a kernel has failed. The context is lost then: the first failure is said again by every call.
        MoesimError
            If the call fails.
        """
        code, *values = self.tried(name, *args)
        self.check(name, code)
        return values[0] if len(values) == 1 else tuple(values) or None

    def tried(self, name: str, *args: Any) -> tuple[Any, ...]:  # noqa: ANN401
        """Call a function; its code and results as they are."""
        if self._failure is not None:
            raise self._failure
        result: tuple[Any, ...] = getattr(self.api, name)(*args)
        return result

    def tensor_map(
        self, address: int, size: tuple[int, int], pitch_bytes: int, box: tuple[int, int]
    ) -> npt.NDArray[np.uint64]:
        """Tensor map of a matrix of bf16, fastest axis first; 128-byte swizzle, zeros outside.

        Returns
        -------
        ndarray
            Its 128 bytes, uint64 ``[16]``.

        Notes
        -----
        The driver wants the map at a multiple of 64 bytes (``cuTensorMapEncodeTiled``); the object that the
        Python package has it written to is at a multiple of 16. So the function is called by its address.
        """
        api = self.api
        u32, u64, enum = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int
        store = np.zeros(16 + 16, np.uint64)
        skip = -store.ctypes.data % 128 // 8
        words = store[skip : skip + 16]
        flags = api.CUdriverProcAddress_flags.CU_GET_PROC_ADDRESS_DEFAULT
        place, _ = self("cuGetProcAddress", b"cuTensorMapEncodeTiled", 12000, flags)
        encode = ctypes.CFUNCTYPE(
            enum, ctypes.c_void_p, enum, u32, ctypes.c_void_p, *[ctypes.c_void_p] * 4, *[enum] * 4
        )(int(place))
        code = encode(
            words.ctypes.data,
            int(api.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16),
            2,
            address,
            ctypes.addressof(sizes := (u64 * 2)(*size)),
            ctypes.addressof(pitch := (u64 * 1)(pitch_bytes)),
            ctypes.addressof(boxes := (u32 * 2)(*box)),
            ctypes.addressof(steps := (u32 * 2)(1, 1)),
            int(api.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE),
            int(api.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B),
            int(api.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B),
            int(api.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        )
        del sizes, pitch, boxes, steps  # they had to live until now
        self.check("cuTensorMapEncodeTiled", api.CUresult(code))
        return words

    def check(self, name: str, code: Any) -> None:  # noqa: ANN401
        """Raise unless a call went well."""
        if code == self.api.CUresult.CUDA_SUCCESS:
            return
        said = _words(self.api, code)
        if code.name not in _STICKY:
            raise MoesimError(f"the CUDA driver refuses {name}: {said}")
        blamed = ", ".join(dict.fromkeys(self.recent)) or "unknown"
        self._failure = KernelError(
            f"a kernel failed: {said}; started last: {blamed}; this process cannot use the GPU any more "
            "(compute-sanitizer shows where)"
        )
        raise self._failure


def _words(api: Any, code: Any) -> str:  # noqa: ANN401
    _, text = api.cuGetErrorString(code)
    return f"{code.name}: {text.decode()}" if text else str(code.name)
