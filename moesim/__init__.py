"""moesim: predict, place and validate Mixture-of-Experts inference from real routing traces."""

from moesim._version import __version__

__all__ = ["__version__"]
