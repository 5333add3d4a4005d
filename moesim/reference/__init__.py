"""One MoE layer, run for real: on a CPU with numpy, on a GPU with kernels of our own.

Predictions are held against these runs (`moesim validate reference`), and what a machine is capable of is
learnt from them (`moesim calibrate cpu`, `moesim calibrate cuda`).
"""

from moesim.reference.layer import Case, LayerShape, Runner, Timing

__all__ = ["Case", "LayerShape", "Runner", "Timing"]
