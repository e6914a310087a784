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

from spinmd.analysis.results import RUN, Quantity, Result, alike, is_seed
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
MARKERS = "os^vD"
PAD = 7.0  # points from an axis of wave vectors to its labels: the last one stands beside the 0 of another axis
GREEK = {"GAMMA": "Γ", "DELTA": "Δ", "LAMBDA": "Λ", "SIGMA": "Σ"}
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


def point_name(name: str) -> str:
    """Of a point in the Brillouin zone as it is drawn: ``T_2`` with a subscript, ``SIGMA_0`` as Σ; both of ``X|R_2``."""
    parts = []
    for part in str(name).split("|"):
        letter, _, below = part.partition("_")
        letter = GREEK.get(letter, letter)
        parts.append(f"{letter}$_{{{below}}}$" if below else letter)
    return "|".join(parts)


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


def marks(result: Result) -> dict[str, Quantity]:
    """What tells the runs apart: the quantities that came with them, as the values of a sweep."""
    return {n: one for n, one in result.quantities.items() if one.axes == (RUN,) and one.meaning == "of the runs"}


def abscissa(result: Result) -> tuple[np.ndarray, str]:
    """What runs are drawn against, (runs,) and its label: their temperatures if these differ, else what their sweep varies."""
    names = ["temperature", "bath_temperature", *marks(result)]
    names.sort(key=lambda name: (is_seed(name), not name.endswith("temperature")))
    others = [name for name, one in marks(result).items() if not is_seed(name) and _varies(one)]
    for name in names:
        one = result.quantities.get(name)
        values = None if one is None else _line(one)
        if values is None or (others and is_seed(name)):
            continue
        if one.values.ndim == 0 and np.isfinite(values).all():  # an average
            return values, label(name.replace("_", " "), one.unit)
        if np.isfinite(values).all() and len(np.unique(np.round(values, 9))) > 1:
            return values, label(_short(name), one.unit)
    count = max((len(one.values) for one in result.quantities.values() if one.axes == (RUN,)), default=1)
    return np.arange(count, dtype=float), "run"


def own_mark(result: Result, x: np.ndarray) -> str | None:
    """The mark of the runs that the abscissa ``x`` is, or (a measured temperature) belongs to."""
    lines = {name: _line(one) for name, one in marks(result).items()}
    lines = {name: values for name, values in lines.items() if values is not None and values.shape == x.shape}
    same = [name for name, values in lines.items() if np.array_equal(values, x)]
    near = [name for name in lines if name.endswith("temperature") and _varies(result.quantity(name))]
    return next(iter(same), min(near, key=lambda name: float(np.abs(lines[name] - x).sum()), default=None))


def run_curves(result: Result, x: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The curves that runs make against ``x``: what tells each from the others, and the numbers of its runs.

    Seeds belong to one curve.
    """
    own = own_mark(result, x)
    apart = [name for name, one in marks(result).items() if name != own and not is_seed(name) and _varies(one)]
    columns = [result.quantity(name).values for name in apart]
    return [(", ".join(_value(result, name, runs[0]) for name in apart), runs) for runs in alike(columns, len(x))]


def points(
    axes: "Axes", result: Result, name: str, x: np.ndarray | None = None, *, label: str = "", kind: int = 0, **style
) -> None:
    """Values of a quantity (of runs, or of one average) with error bars against ``abscissa``, one colour for each curve.

    label  of the quantity, where a panel has several; ``kind`` is then its number, which chooses the marker

    Where a point has several seeds, the line joins their means. Runs at the same abscissa that nothing tells apart are not joined.
    """
    one = result.quantity(name)
    x = abscissa(result)[0] if x is None else x
    values = np.atleast_1d(one.values)
    error = None if one.error is None else np.atleast_1d(one.error)
    groups = run_curves(result, x) if one.axes == (RUN,) else [("", np.arange(len(x)))]
    style = {"marker": MARKERS[kind % len(MARKERS)], "markersize": 4, "linewidth": 1, "capsize": 2, **style}
    line = style.pop("linestyle", "-")
    seeds = any(map(is_seed, marks(result)))
    for k, (text, runs) in enumerate(groups):
        order = runs[np.argsort(x[runs], kind="stable")]
        cells = [order[cell] for cell in alike([x[order]] if not seeds else _points_of(result, order), len(order))]
        repeated = len(cells) < len(order)
        words = ", ".join(part for part in (label, text) if part)
        if len(groups) > 1:
            style["color"] = _colour(k, len(groups))
        drawn = axes.errorbar(
            x[order], values[order], None if error is None else error[order], label=words or None,
            linestyle="none" if repeated else line, alpha=0.5 if repeated and seeds else None, **style,
        )  # fmt: skip
        if repeated and seeds and line != "none":
            means = np.array([(x[cell].mean(), values[cell].mean()) for cell in cells]).T
            axes.plot(*means, line, color=drawn[0].get_color(), linewidth=style["linewidth"])


def legend(axes: "Axes") -> None:
    """Where there is more than one label; of many above the panel, since they would cover its curves."""
    count = len(axes.get_legend_handles_labels()[1])
    if count > 4:
        axes.legend(ncols=2, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    elif count > 1:
        axes.legend()


def run_labels(result: Result, count: int) -> list[str]:
    """What tells the runs apart: the quantities that have the axis "run" alone and came with the runs, else the files' names."""
    names = list(marks(result))
    texts = [", ".join(_value(result, name, k) for name in names) for k in range(count)]
    return texts if names and len(set(texts)) == count else [Path(source).stem for source in result.sources[:count]]


def _points_of(result: Result, runs: np.ndarray) -> list[np.ndarray]:
    return [one.values[runs] for name, one in marks(result).items() if not is_seed(name)]


def _line(one: Quantity) -> np.ndarray | None:
    """(runs,) numbers, also of lists of one; None for texts and longer lists."""
    if one.values.dtype.kind not in "fiu" or one.values.size != len(np.atleast_1d(one.values)):
        return None
    return one.values.astype(float).reshape(-1)


def _varies(one: Quantity) -> bool:
    return len(alike([one.values], len(one.values))) > 1


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def _value(result: Result, name: str, run: int) -> str:
    """``J 0.01 eV``: of one run."""
    one = result.quantity(name)
    parts = np.ravel(one.values[run]).tolist()
    words = " ".join(f"{part:g}" if isinstance(part, (int, float)) else str(part)[:24] for part in parts)
    return f"{_short(name)} {words}" + ("" if one.unit in ("1", "text", "") else f" {UNITS.get(one.unit, one.unit)}")


def _colour(k: int, count: int):
    from matplotlib import colormaps

    return COLOURS[k] if count <= len(COLOURS) else colormaps["viridis"](0.95 * k / (count - 1))
