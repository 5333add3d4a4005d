"""The house style: one set of roles, a palette for each place where figures are seen.

A figure of a page is drawn once, with `PAGE`; its colours become variables of the style sheet (`Theme.css`),
so that it follows the reader's scheme and prints on white.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

#: Beside the colours, in the same order: nothing is told by colour alone.
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
LINES = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
    (0, (3, 3)),
    (0, (1, 3)),
    (0, (6, 1, 2, 1)),
)
#: Straight lines only: a pattern of dots takes a hundred times the bytes.
HATCHES = ("", "////", "xxxx", "\\\\\\\\", "----", "||||", "++++", "//--", "\\\\||")

#: What names of curves mean, and where in the lists above they are.
_ROLES = {"after": 0, "plan": 0, "predicted": 0, "before": 1, "contiguous": 1, "limit": 1, "balanced": 2,
          "measured": 3, "greedy": 4}  # fmt: skip


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
    sequential
        Name of a matplotlib colour map, told apart with every common colour blindness.
    """

    name: str
    ink: str
    dim: str
    grid: str
    paper: str
    series: tuple[str, ...]
    role: dict[str, str]
    sequential: str

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

    @property
    def diverging(self) -> Colormap:
        """From less (blue) over even (the background) to more (vermilion); what is missing is grey.

        The middle is transparent: one image lies on white and on black.
        """
        from matplotlib.colors import LinearSegmentedColormap, to_rgba

        less, more = (to_rgba(PRINT.series[nth]) for nth in (0, 1))
        ends = ((0.0, less), (0.5 - 1e-9, (*less[:3], 0.0)), (0.5 + 1e-9, (*more[:3], 0.0)), (1.0, more))
        found = LinearSegmentedColormap.from_list("moesim-diverging", ends, N=255)
        return found.with_extremes(bad=to_rgba("#8b949e", 0.55))

    def line(self, name: str, nth: int = 0) -> dict[str, Any]:
        """Colour, marker and line of a curve: of its role where `name` has one, else of place `nth`.

        >>> PRINT.line("plan")["color"] == PRINT.line("after")["color"] == PRINT.role["after"]
        True
        """
        if name == "bound":
            return {"color": self.role["bound"], "marker": "", "linestyle": "--"}
        return self._at(_ROLES.get(name, nth) % len(self.series))

    def _at(self, place: int) -> dict[str, Any]:
        return {"color": self.series[place], "marker": MARKERS[place], "linestyle": LINES[place]}

    def lines(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Looks of curves in one figure: of their roles, and for the others the first that are free.

        >>> looks = PRINT.lines(["lru", "before", "lfu"])
        >>> [PRINT.series.index(look["color"]) for look in looks.values()]
        [0, 1, 2]
        """
        curves = dict.fromkeys(names)
        owner = {_ROLES[name]: name for name in reversed(curves) if name in _ROLES}
        free = cycle([nth for nth in range(len(self.series)) if nth not in owner] or [0])
        settled = {*owner.values(), "bound"}
        return {name: self.line(name) if name in settled else self._at(next(free)) for name in curves}

    @property
    def variables(self) -> dict[str, str]:
        """Names of the style sheet's variables and their colours."""
        named = {"ink": self.ink, "dim": self.dim, "grid": self.grid, "paper": self.paper}
        return named | {f"s{nth}": colour for nth, colour in enumerate(self.series)}

    def follow(self, svg: str) -> str:
        """A drawing of this theme, as text, with variables in place of its colours.

        >>> PAGE.follow('<path style="fill: #ffffff"/> #ffffff')
        '<path style="fill: var(--paper)"/> #ffffff'
        """
        names = {colour: f"var(--{name})" for name, colour in self.variables.items()}
        colours = re.compile("|".join(names))

        def within(tag: re.Match[str]) -> str:
            return colours.sub(lambda colour: names[colour[0]], tag[0])

        # Only inside of tags: a name in the text may look like a colour.
        return re.sub(r"<[^<>]*>", within, svg)


# Searched for, from Okabe and Ito's and Paul Tol's colours: a contrast of 3 to the background, and apart from
# each other with every common colour blindness, the first ones most (tests.reporting.figures).
_SERIES = ("#0d66a9", "#f25600", "#109f6e", "#b67bc7", "#885c55", "#8268e9", "#332287", "#5f5f00", "#882255")
_SERIES_DARK = (
    "#7be9ff", "#ff8b2e", "#10957c", "#d0a4ba", "#eece57", "#8cbefe", "#907df1", "#9ab778", "#c974aa"
)  # fmt: skip


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
    "print", "#1b1f24", "#57606a", "#e4e4e4", "#ffffff", _SERIES, _roles(_SERIES, "#1b1f24"), "cividis"
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
)
#: Drawn in the colours of print, which then become variables.
PAGE = replace(PRINT, name="page")
#: What can be written to a file of its own.
THEMES = {theme.name: theme for theme in (PRINT, DARK)}


def css() -> str:
    """Definitions of the variables: light, dark where the reader's system or the page says so, and print.

    A page that lets its reader choose puts ``data-theme="dark"`` or ``"light"`` on its root element.
    """

    def block(selector: str, theme: Theme) -> str:
        values = " ".join(f"--{name}: {colour};" for name, colour in theme.variables.items())
        return f"{selector} {{ {values} }}"

    return "\n".join(
        (
            block(":root", PRINT),
            "@media screen and (prefers-color-scheme: dark) { "
            f"{block(':root:not([data-theme=light])', DARK)} }}",
            f"@media screen {{ {block(':root[data-theme=dark]', DARK)} }}",
        )
    )
