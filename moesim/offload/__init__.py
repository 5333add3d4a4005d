"""Traces replayed with time: GPU, CPU, links and storage as resources of one box."""

from moesim.offload.box import Box, Path, Width
from moesim.offload.chrome import write_timeline
from moesim.offload.run import run
from moesim.offload.timed import Timed

__all__ = ["Box", "Path", "Timed", "Width", "run", "write_timeline"]
