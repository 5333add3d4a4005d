"""The layer on an NVIDIA GPU: kernels of our own, compiled at run time; the same kernels run without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesim.reference.cuda.runner import CudaRunner

__all__ = ["CudaRunner"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what kind of thing depends on its name
    if name == "CudaRunner":
        from moesim.reference.cuda.runner import CudaRunner

        return CudaRunner
    raise AttributeError(name)
