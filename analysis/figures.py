"""One style for all figures of analyses: readable on a slide, units on every axis, drawn without a screen.

with figure("rdf.png") as fig:
    axes = fig.subplots()
    axes.plot(result["r"], result["g"])
    axes.set(xlabel=label("distance", "Å"), ylabel="g(r)")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spinmd.analysis.results import RUN, Result
from spinmd.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")
SIZE = (6.4, 4.4)  # inches
COLOURS = (
    "#1f5fa8",
    "#d1602d",
    "#2a8c6e",
    "#8a4fa3",
    "#b8961e",
    "#c23b5a",
    "#5b6770",
    "#3aa5c9",
)  # told apart in grey and by most eyes
STYLE = {
    "figure.figsize": SIZE,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "image.cmap": "magma",
    "svg.hashsalt": "spinmd",
}
UNITS = {"Angstrom": "Å", "muB": "µB", "deg": "°", "1/Angstrom": "1/Å"}


def check_figure(path: str | Path, place: str = "--plot") -> Path:
    """The path; InputError for a name that says no known format."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name!r} says no format; figures are written as {', '.join(SUFFIXES)}", place)
    return path


@contextmanager
def figure(path: str | Path, size: tuple[float, float] = SIZE) -> Iterator["Figure"]:
    """A matplotlib Figure in this style that is written to ``path`` at the end (PNG, PDF or SVG). No screen is needed."""
    path = check_figure(path)
    import matplotlib
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        drawn = Figure(figsize=size)
        FigureCanvasAgg(drawn)
        yield drawn
        try:
            drawn.savefig(path)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", str(path)) from None


def label(name: str, unit: str = "1") -> str:
    """Of an axis: ``pressure (GPa)``; units as they are printed (Å, µB)."""
    return name if unit in ("1", "", "text") else f"{name} ({UNITS.get(unit, unit)})"


def axis_label(result: Result, name: str, words: str | None = None) -> str:
    """``label`` of a quantity: with its meaning's words, or its name's."""
    return label(words or name.replace("_", " "), result.quantity(name).unit)


def curves(axes: "Axes", result: Result, x: str, y: str, **style) -> None:
    """y over x with a band of one standard error; for results of several runs one curve each, labelled by what tells them apart."""
    abscissa, quantity = result.quantity(x).values, result.quantity(y)
    several = quantity.axes[:1] == (RUN,)
    rows = quantity.values if several else quantity.values[None]
    errors = quantity.error if several or quantity.error is None else quantity.error[None]
    names = run_labels(result, len(rows)) if several else [style.pop("label", None)]
    for k, row in enumerate(rows):
        (line,) = axes.plot(abscissa, row, label=names[k], **style)
        if errors is not None and np.isfinite(errors[k]).any():
            axes.fill_between(
                abscissa, row - errors[k], row + errors[k], color=line.get_color(), alpha=0.25, linewidth=0
            )
    if several and len(rows) > 1:
        axes.legend(ncols=1 + len(rows) // 9)


def abscissa(result: Result) -> tuple[np.ndarray, str]:
    """What runs are drawn against, (runs,) and its label: their temperatures if these differ, else what their sweep varies."""
    marks = [n for n, one in result.quantities.items() if one.axes == (RUN,) and one.meaning == "of the runs"]
    names = ["temperature", "bath_temperature", *marks]
    names.sort(key=lambda name: not name.endswith("temperature"))
    for name in names:
        one = result.quantities.get(name)
        if one is None or one.values.dtype.kind not in "fiu" or one.values.ndim > 1:
            continue
        values = np.atleast_1d(one.values).astype(float)
        if one.values.ndim == 0 and np.isfinite(values).all():  # an average
            return values, label(name.replace("_", " "), one.unit)
        if np.isfinite(values).all() and len(np.unique(np.round(values, 9))) > 1:
            return values, label(name.rpartition(".")[2].replace("_", " "), one.unit)
    count = max((len(one.values) for one in result.quantities.values() if one.axes == (RUN,)), default=1)
    return np.arange(count, dtype=float), "run"


def points(axes: "Axes", result: Result, name: str, x: np.ndarray | None = None, **style) -> None:
    """Values of a quantity (of runs, or of one average) with error bars against ``abscissa``, in its order."""
    one = result.quantity(name)
    x = abscissa(result)[0] if x is None else x
    order = np.argsort(x, kind="stable")
    error = None if one.error is None else np.atleast_1d(one.error)[order]
    style = {"marker": "o", "markersize": 4, "linewidth": 1, "capsize": 2, **style}
    axes.errorbar(x[order], np.atleast_1d(one.values)[order], error, **style)


def run_labels(result: Result, count: int) -> list[str]:
    """What tells the runs apart: the quantities that have the axis "run" alone and came with the runs, else the files' names."""
    marks = {
        name: one for name, one in result.quantities.items() if one.axes == (RUN,) and one.meaning == "of the runs"
    }
    if marks:
        texts = []
        for k in range(count):
            parts = []
            for name, one in marks.items():
                value = one.values[k]
                short = name.rpartition(".")[2].replace("_", " ")
                parts.append(f"{short} {value:g}" if one.values.dtype.kind in "fiu" else f"{short} {value}")
                if one.unit not in ("1", "text", ""):
                    parts[-1] += f" {UNITS.get(one.unit, one.unit)}"
            texts.append(", ".join(parts))
        if len(set(texts)) == count:
            return texts
    return [Path(source).stem for source in result.sources[:count]]
