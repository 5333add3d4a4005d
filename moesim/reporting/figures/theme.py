"""The house style: one set of roles, a palette for each place where figures are seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours by what they are for.

    Parameters
    ----------
    name
        ``print``, ``dark`` or ``page``.
    ink, dim, grid, paper
        Text and axes; text beside them; lines behind data; the background.
    series
        For categories, told apart with every common colour blindness, in this order.
    role
        Colours of what has the same meaning in every figure: ``before``, ``after``, ``balanced``, ``greedy``,
        ``bound``, ``measured``, ``limit``.
    sequential, diverging
        Names of matplotlib colour maps.
    """

    name: str
    ink: str
    dim: str
    grid: str
    paper: str
    series: tuple[str, ...]
    role: dict[str, str]
    sequential: str
    diverging: str

    def settings(self) -> dict[str, Any]:
        """Settings for matplotlib."""
        return {
            "axes.axisbelow": True,
            "axes.edgecolor": self.ink,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.labelcolor": self.ink,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": self.ink,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "figure.facecolor": self.paper,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9.0,
            "grid.color": self.grid,
            "legend.frameon": False,
            "legend.labelcolor": self.ink,
            "savefig.facecolor": self.paper,
            "svg.fonttype": "none",
            "svg.hashsalt": "moesim",
            "text.color": self.ink,
            # Names come from files: a dollar sign in one is a dollar sign.
            "text.parse_math": False,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
        }


# Okabe and Ito's colours first, then Paul Tol's muted scheme.
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#999933", "#882255")
_SERIES_DARK = (
    "#56b4e9",
    "#ff8c42",
    "#2bc79b",
    "#e79fc6",
    "#f0b429",
    "#9ad1f5",
    "#a99cf0",
    "#cfcf5f",
    "#d9699a",
)


def _roles(series: tuple[str, ...], ink: str) -> dict[str, str]:
    return {
        "before": series[1],
        "after": series[0],
        "balanced": series[2],
        "greedy": series[4],
        "bound": ink,
        "measured": series[3],
        "limit": series[1],
    }


PRINT = Theme(
    "print",
    "#1b1f24",
    "#57606a",
    "#e4e4e4",
    "#ffffff",
    _SERIES,
    _roles(_SERIES, "#1b1f24"),
    "cividis",
    "RdBu_r",
)
DARK = Theme(
    "dark",
    "#e6edf3",
    "#9aa4af",
    "#30363d",
    "#0f1318",
    _SERIES_DARK,
    _roles(_SERIES_DARK, "#e6edf3"),
    "cividis",
    "RdBu_r",
)
THEMES = {theme.name: theme for theme in (PRINT, DARK)}
