"""What serving runs teach: constants of engines, effects beyond physics, how far off answers are."""

from moesim.learning.serving import HeldOut, calibrate_serving

__all__ = ["HeldOut", "calibrate_serving"]
