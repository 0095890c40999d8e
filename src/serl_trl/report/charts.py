"""Small charts as inline SVG, whose colours are the page's: they follow its light and dark."""

import re
from collections.abc import Sequence
from io import StringIO

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .curves import Points


SERIES = 6  # colours of the page; more runs begin again
_INK, _GRID = "#010203", "#010204"
_COLOURS = [f"#0a0b{number:02x}" for number in range(SERIES)]
# What matplotlib draws with, and what the page has in its place.
_VARIABLES = {_INK: "var(--muted)", _GRID: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_COLOURS)
}
_STYLE = {
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "serl-trl",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], _INK),
}


def curve_chart(series: Sequence[Points], is_share: bool = False) -> str:
    """Return a line chart over the steps, a line for each run; the axis of a share goes from 0 to 1."""

    def draw(axes):
        for number, points in enumerate(series):  # empty ones too, so that each run keeps its colour
            _draw(axes, points, number)
        if is_share:
            axes.set_ylim(-0.03, 1.03)

    return _chart("step", draw)


def interval_chart(series: Sequence[Sequence[tuple[float, float, float, float]]]) -> str:
    """Return a chart of (step, value, low, high), a line with error bars for each run."""

    def draw(axes):
        for number, points in enumerate(series):
            for step, _, low, high in points:
                axes.plot([step, step], [low, high], color=_COLOURS[number % SERIES], linewidth=1)
            _draw(axes, [(step, value) for step, value, _, _ in points], number, marker="o")

    return _chart("step", draw)


def histogram_chart(series: Sequence[Sequence[float]], bands: Sequence[tuple[float, float]]) -> str:
    """Return the outlines of shares by pass rate from 0 to 1, with dashed lines at the ends of each run's band."""

    def draw(axes):
        for number, shares in enumerate(series):
            edges = [(place - 0.5) / (len(shares) - 1) for place in range(len(shares) + 1)]
            axes.stairs(shares, edges, color=_COLOURS[number % SERIES], linewidth=1.8)
        for number, band in enumerate(bands):
            for bound in band:
                axes.axvline(bound, color=_COLOURS[number % SERIES], linestyle="--", linewidth=1)

    return _chart("pass rate", draw)


def _draw(axes, points: Points, number: int, marker: str = "") -> None:
    marker = marker or ("o" if len(points) < 3 else "")
    steps, values = zip(*points, strict=True) if points else ((), ())
    axes.plot(steps, values, color=_COLOURS[number % SERIES], marker=marker, markersize=3)


def _chart(x_label: str, draw) -> str:
    with rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 2.0), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(x_label)
        axes.margins(x=0.02)
        axes.locator_params("x", nbins=5, integer=x_label == "step")
        axes.locator_params("y", nbins=5)
        axes.set_axisbelow(True)
        text = StringIO()
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = re.sub(r' id="[a-z]+[a-z_\d.]*_\d+"', "", svg[svg.index("<svg") :])  # they would be there once a chart
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
