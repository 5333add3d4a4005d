"""What measurements teach: curves of kernels, constants of engines, effects beyond physics."""

from moesim.calibrate.serving import HeldOut, calibrate_serving

__all__ = ["HeldOut", "calibrate_serving"]
