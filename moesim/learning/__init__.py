"""What serving runs teach: constants of engines, effects beyond physics, how far off answers are."""

from moesim.learning.serving import calibrate_serving
from moesim.learning.summary import HeldOut

__all__ = ["HeldOut", "calibrate_serving"]
