"""Sweeps at a glance: what ``spinmd plot`` draws of the table of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spinmd.analysis.figures import COLOURS, figure, label
from spinmd.analysis.overview import MOST_CURVES, TEMPERATURES
from spinmd.checkpoint import open_run
from spinmd.errors import InputError


def plot_sweep(sweep: Any, path: str | Path, columns: Sequence[str] | None = None) -> None:
    """Averages of a sweep against what it varies, with error bars: PNG, PDF or SVG.

    sweep    from ``spinmd.read_sweep``. Its longest axis of numbers is the abscissa, further axes give one curve each
    columns  of the thermo table, one panel each; None: magnetisation, temperatures, total energy and pressure

    InputError for a sweep without finished points, for unknown columns, and for one with too many curves.
    """
    unknown = [name for name in columns or () if name not in sweep.mean]
    if unknown:
        raise InputError(f"there is no column {unknown[0]!r}; there are {', '.join(sweep.mean)}", "--columns")
    done = (sweep.points["status"] == "finished").any(axis=-1)
    if not done.any():
        raise InputError("no point of this sweep is finished", str(sweep.path))
    axis = _abscissa(sweep)
    curves = _curves(sweep, axis)
    if len(curves) > MOST_CURVES:
        raise InputError(
            f"{len(curves)} curves in one figure cannot be told apart; sweep fewer values at a time", str(sweep.path)
        )
    panels = [(name, {name: ""}) for name in columns] if columns else _panels(sweep)
    atoms = _atoms(sweep)
    wide = 1 if len(panels) == 1 else 2
    high = -(-len(panels) // wide)
    with figure(path, (5.2 * wide + 1.0, 3.6 * high)) as drawn:
        places = drawn.subplots(high, wide, squeeze=False).ravel()
        for axes, (title, names) in zip(places, panels, strict=False):
            unit = sweep.units.get(next(iter(names)), "1")
            per_atom = unit == "eV" and atoms is not None
            for k, (name, words) in enumerate(names.items()):
                for c, (text, index) in enumerate(curves):
                    colour = COLOURS[(c if len(curves) > 1 else k) % len(COLOURS)]
                    line = "o-" if k == 0 else "s--"
                    text_of = ", ".join(w for w in (words, text) if w)
                    scale = atoms if per_atom else None
                    _draw_points(axes, sweep, axis, name, index, scale, line, colour, text_of)
            title = title if len(names) > 1 or title not in ("temperature",) else next(iter(names))
            axes.set(
                xlabel=_axis_words(sweep, axis), ylabel=label(title.replace("_", " "), "eV/atom" if per_atom else unit)
            )
            if len(axes.get_legend_handles_labels()[1]) > (0 if len(curves) > 1 or len(names) > 1 else 99):
                axes.legend(fontsize=9)
        for axes in places[len(panels) :]:
            axes.set_visible(False)
        left = int((~done).sum())
        seeds = sweep.points["status"].shape[-1]
        facts = (
            [f"{done.size} points"] + ([f"{seeds} seeds"] if seeds > 1 else []) + ([f"{left} missing"] if left else [])
        )
        drawn.suptitle(f"{Path(sweep.path).absolute().parent.name}  ({', '.join(facts)})", fontsize=12)


def _panels(sweep: Any) -> list[tuple[str, dict[str, str]]]:
    def held(name: str) -> bool:
        values = sweep.mean[name]
        return bool(np.isfinite(values).any() and np.nan_to_num(values).any())

    panels = {
        "mean moment": {"magnetisation": ""},
        "temperature": TEMPERATURES,
        "total energy": {"total_energy": ""},
        "pressure": {"pressure": ""},
    }
    found = [(title, {n: w for n, w in names.items() if held(n)}) for title, names in panels.items()]
    return [(title, names) for title, names in found if names]


def _abscissa(sweep: Any) -> int:
    """Which axis of the grid is x: the longest one of single numbers, else the first."""
    lengths = [len(v) if v.dtype.kind in "fiu" and v.ndim == 1 else 0 for v in sweep.axes.values()]
    return int(np.argmax(lengths)) if lengths else 0


def _curves(sweep: Any, axis: int) -> list[tuple[str, tuple]]:
    """Text and index (a slice along ``axis``) of each curve."""
    keys = list(sweep.axes)
    shape = [n for k, n in enumerate(sweep.shape) if k != axis]
    curves = []
    for place in np.ndindex(*shape):
        index = list(place)
        index.insert(axis, slice(None))
        texts = []
        for k, key in enumerate(keys):
            if k != axis:
                unit = sweep.units.get(key, "1")
                texts.append(
                    f"{_short(key)} {_value(sweep.axes[key][index[k]])}" + ("" if unit in ("1", "text") else f" {unit}")
                )
        curves.append((", ".join(texts), tuple(index)))
    return curves


def _atoms(sweep: Any) -> np.ndarray | None:
    """(shape) number of atoms of each point; None where a file is not there any more."""
    files = sweep.points["file"][..., 0]
    result = np.ones(files.shape)
    try:
        for index in np.ndindex(files.shape):
            if sweep.points["status"][(*index, 0)] == "finished":
                with open_run(sweep.path.parent / str(files[index])) as file:
                    result[index] = file["spinmd"].attrs["natoms"]
    except (InputError, KeyError):
        return None
    return result


def _draw_points(
    axes: Any,
    sweep: Any,
    axis: int,
    name: str,
    index: tuple,
    atoms: np.ndarray | None,
    line: str,
    colour: str,
    words: str,
) -> None:
    """Means with error bars along one axis of the grid; divided by ``atoms``, if they are given."""
    x = list(sweep.axes.values())[axis] if sweep.axes else np.zeros(1)
    mean, error = np.atleast_1d(sweep.mean[name][index]), np.atleast_1d(sweep.error[name][index])
    if atoms is not None:
        mean, error = mean / np.atleast_1d(atoms[index]), error / np.atleast_1d(atoms[index])
    numbers = x.dtype.kind in "fiu" and x.ndim == 1
    at = x.astype(float) if numbers else np.arange(len(x), dtype=float)
    good = np.isfinite(mean)
    order = np.argsort(at[good])
    bars = np.where(np.isfinite(error), error, 0.0)[good][order]
    axes.errorbar(at[good][order], mean[good][order], bars, fmt=line, color=colour, markersize=4.5, capsize=2.5,
                  label=words or None)  # fmt: skip
    if not numbers:
        axes.set_xticks(at, [_value(one) for one in x], rotation=20)


def _axis_words(sweep: Any, axis: int) -> str:
    if not sweep.axes:
        return "the only point"
    key = list(sweep.axes)[axis]
    return label(_short(key), sweep.units.get(key, "1"))


def _short(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray):  # of a list
        return ", ".join(_value(one) for one in value)
    return f"{value:g}" if isinstance(value, (int, float, np.number)) else str(value)[:24]
