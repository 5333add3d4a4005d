"""Figures: one function per metric, each from plain values."""

from moesim.reporting.figures.figure import Figure
from moesim.reporting.figures.theme import DARK, PRINT, THEMES, Theme

__all__ = ["DARK", "PRINT", "THEMES", "Figure", "Theme"]
