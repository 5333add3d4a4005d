"""The layer on an NVIDIA GPU: kernels of our own, compiled at run time; the same kernels run without one."""
