"""Calls to the CUDA driver: what went wrong, said once and clearly."""

from __future__ import annotations

import collections
from typing import Any

from moesim.errors import ConfigError, Fault
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
            If it fails. After a failed kernel the context is lost: the first failure is said again.
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

    def check(self, name: str, code: Any) -> None:  # noqa: ANN401
        """Raise unless a call went well."""
        if code == self.api.CUresult.CUDA_SUCCESS:
            return
        said = _words(self.api, code)
        if code.name not in _STICKY:
            raise KernelError(f"{name}: {said}")
        blamed = ", ".join(dict.fromkeys(self.recent)) or "unknown"
        self._failure = KernelError(
            f"a kernel failed: {said}; started last: {blamed}; this process cannot use the GPU any more "
            "(compute-sanitizer shows where)"
        )
        raise self._failure


def _words(api: Any, code: Any) -> str:  # noqa: ANN401
    _, text = api.cuGetErrorString(code)
    return f"{code.name}: {text.decode()}" if text else str(code.name)
