"""Comparison of predictions with what was measured."""

from moesim.validate.kernels import KernelError, summary, validate_kernels

__all__ = ["KernelError", "summary", "validate_kernels"]
