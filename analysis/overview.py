"""Runs and sweeps at a glance: what ``spinmd plot`` draws of the thermo table of a run and of the table of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spinmd.analysis.figures import COLOURS, figure, label
from spinmd.analysis.results import with_error
from spinmd.drift import drift
from spinmd.errors import InputError
from spinmd.trajectory import Table, Trajectory

POINTS = 3000  # of a curve; longer tables are averaged over neighbouring rows
TEMPERATURES = {"lattice_temperature": "lattice", "spin_temperature": "spins"}
ENERGIES = {
    "kinetic_energy": "kinetic",
    "lattice_potential_energy": "lattice potential",
    "spin_energy": "spin",
    "total_energy": "total",
}
PANELS = ("magnetisation", "temperature", "energy", "pressure")  # of a sweep
MOST_CURVES = 12


@dataclass
class _Rows:
    """The thermo table of a run, ready to draw: ``x`` and its label, number of atoms, and where stages begin (x)."""

    table: Table
    x: np.ndarray
    words: str
    natoms: int
    stage: float | None
    name: str

    @classmethod
    def of(cls, trajectory: Trajectory) -> "_Rows":
        table = trajectory.thermo
        if len(table["step"]) < 2:
            raise InputError(
                "its thermo table has fewer than two rows, which make no curve; write more (output.thermo in the deck)",
                str(trajectory.path),
            )
        timeless = np.ptp(table["time"]) == 0.0  # Monte Carlo counts sweeps, not time
        x = np.asarray(table["step"] if timeless else table["time"], dtype=np.float64)
        first, _ = trajectory.last_stage
        begins = float(x[np.searchsorted(table["step"], first)]) if 0 < first <= table["step"][-1] else None
        words = "step" if timeless else label("time", "ps")
        return cls(table, x, words, trajectory.system_atoms, begins, trajectory.path.stem)

    def column(self, name: str, scale: float = 1.0) -> np.ndarray | None:
        """A column, times ``scale``; None if it holds nothing or only zeros."""
        values = self.table.get(name)
        if values is None or not np.isfinite(values).any() or not np.nan_to_num(values).any():
            return None
        return scale * np.asarray(values, dtype=np.float64)

    def draw(self, axes: Any, values: np.ndarray, **style: Any) -> None:
        axes.plot(*thinned(self.x, values), **style)


def thinned(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most about ``points`` points: means over blocks of neighbouring rows of longer arrays."""
    length = -(-len(x) // points)
    if length < 2:
        return x, y
    count = len(x) // length
    short = slice(len(x) - count * length, None)
    return x[short].reshape(count, length).mean(axis=1), y[short].reshape(count, length).mean(axis=1)


def plot_run(runs: Trajectory | Sequence[Trajectory], path: str | Path) -> None:
    """Energies, temperatures, magnetisation and drift over time of a run, or of several in one figure; PNG, PDF or SVG.

    Energies are per atom and relative to the first row; the drift is the slope of the conserved quantity in the last stage,
    as in the summary of the run (``spinmd.drift``). InputError for a table of fewer than two rows.
    """
    runs = [runs] if isinstance(runs, Trajectory) else list(runs)
    rows = [_Rows.of(run) for run in runs]
    if len(rows) > MOST_CURVES:
        raise InputError(
            f"{len(rows)} runs in one figure cannot be told apart; name at most {MOST_CURVES}", "spinmd plot"
        )
    with figure(path, (10.0, 7.0)) as drawn:
        (energies, temperatures), (moments, conserved) = drawn.subplots(2, 2)
        single = rows[0] if len(rows) == 1 else None
        if single is not None:
            _draw_energies(energies, single)
            _draw_temperatures(temperatures, single)
            _draw_magnetisation(moments, single)
            _draw_drift(conserved, rows)
        else:
            _compare(energies, rows, "total_energy", "total energy", "meV/atom", 1e3, relative=True)
            _compare(temperatures, rows, None, "temperature", "K")
            _compare(moments, rows, "magnetisation", "mean moment |m|", "µB/atom")
            _draw_drift(conserved, rows)
        for axes in (energies, temperatures, moments, conserved):
            axes.set_xlabel(rows[0].words)
            if not axes.lines:
                axes.text(0.5, 0.5, "nothing to show here", transform=axes.transAxes, ha="center", color="0.5")
            elif axes.get_legend_handles_labels()[1] and (single is not None or axes is energies):
                axes.legend(loc="best", ncols=1 + len(axes.lines) // 7)
            if single is not None and single.stage is not None:
                axes.axvline(single.stage, color="0.6", linewidth=1, linestyle=":")
        drawn.suptitle(_title(runs), fontsize=12)


def _title(runs: Sequence[Trajectory]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs"
    run = runs[0]
    words = str(run.settings.get("title") or run.path.stem)
    return f"{words[:90]}  ({run.system_atoms} atom{'s' if run.system_atoms > 1 else ''})"


def _draw_energies(axes: Any, rows: _Rows) -> None:
    for k, (name, words) in enumerate(ENERGIES.items()):
        values = rows.column(name, 1e3 / rows.natoms)
        if values is not None:
            emphasis = (
                {"color": "0.15", "linewidth": 1.2, "zorder": 3} if name == "total_energy" else {"color": COLOURS[k]}
            )
            rows.draw(axes, values - values[np.isfinite(values)][0], label=words, **emphasis)
    axes.set(ylabel=label("energy − first", "meV/atom"), title="energies")


def _draw_temperatures(axes: Any, rows: _Rows) -> None:
    for k, (name, words) in enumerate(TEMPERATURES.items()):
        values = rows.column(name)
        if values is not None:
            rows.draw(axes, values, label=words, color=COLOURS[k])
    axes.set(ylabel=label("temperature", "K"), title="temperatures")
    _from_zero(axes)


def _draw_magnetisation(axes: Any, rows: _Rows) -> None:
    for k, part in enumerate("xyz"):
        values = rows.column(f"magnetisation_{part}")
        if values is not None:
            rows.draw(axes, values, label=f"$m_{part}$", color=COLOURS[k], linewidth=1.2)
    values = rows.column("magnetisation")
    if values is not None:
        rows.draw(axes, values, label="$|m|$", color="0.15")
    axes.set(ylabel=label("mean moment", "µB/atom"), title="magnetisation")


def _draw_drift(axes: Any, several: Sequence[_Rows]) -> None:
    for k, rows in enumerate(several):
        values = rows.column("conserved", 1e3 / rows.natoms)
        if values is None:
            continue
        last = rows.x > rows.stage if rows.stage is not None else np.ones(len(rows.x), dtype=bool)
        last &= np.isfinite(values)
        if not last.any():
            continue
        x, y = rows.x[last], values[last]
        rows.draw(axes, np.where(last, values - y[0], np.nan), color=COLOURS[k % len(COLOURS)])
        slope, error = drift(x, y)
        if np.isfinite(slope):
            unit = "meV/atom/ps" if rows.words != "step" else "meV/atom/step"
            text = f"{with_error(slope, error)} {unit}"
            if len(several) == 1:
                axes.plot(x, slope * (x - x.mean()) + (y - y[0]).mean(), "--", color="0.15", linewidth=1.2,
                          label=f"drift {text}")  # fmt: skip
            else:
                axes.lines[-1].set_label(f"{rows.name}: {text}")
    axes.set(ylabel=label("conserved − first", "meV/atom"), title="drift")
    if len(several) > 1 and axes.lines:
        axes.legend(fontsize=8)


def _compare(
    axes: Any, several: Sequence[_Rows], name: str | None, words: str, unit: str, scale: float = 1.0, relative: bool = False
) -> None:  # fmt: skip
    """One curve for each run; of temperatures (``name`` None) the spins' are dashed."""
    for k, rows in enumerate(several):
        colour = COLOURS[k % len(COLOURS)]
        for column, line in ((name, "-"),) if name else (("lattice_temperature", "-"), ("spin_temperature", "--")):
            values = rows.column(column, scale / rows.natoms if relative else scale)
            if values is not None:
                values = values - values[np.isfinite(values)][0] if relative else values
                rows.draw(axes, values, color=colour, linestyle=line, label=rows.name if line == "-" else None)
    title = "temperatures (dashed: spins)" if name is None else words
    axes.set(ylabel=label(f"{words} − first" if relative else words, unit), title=title)
    if name is None:
        _from_zero(axes)


def _from_zero(axes: Any) -> None:
    low, high = axes.get_ylim()
    if 0.0 < low < 0.5 * high:
        axes.set_ylim(0.0, None)


# ---------------------------------------------------------------------- sweeps


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
    wide = 1 if len(panels) == 1 else 2
    high = -(-len(panels) // wide)
    with figure(path, (5.2 * wide + 1.0, 3.6 * high)) as drawn:
        places = drawn.subplots(high, wide, squeeze=False).ravel()
        for axes, (title, names) in zip(places, panels, strict=False):
            for k, (name, words) in enumerate(names.items()):
                for c, (text, index) in enumerate(curves):
                    colour = COLOURS[(c if len(curves) > 1 else k) % len(COLOURS)]
                    line = "o-" if k == 0 else "s--"
                    _draw_points(
                        axes, sweep, axis, name, index, f"{line}", colour, ", ".join(w for w in (words, text) if w)
                    )
            unit = sweep.units.get(next(iter(names)), "1")
            axes.set(xlabel=_axis_words(sweep, axis), ylabel=label(title.replace("_", " "), unit))
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


def _draw_points(axes: Any, sweep: Any, axis: int, name: str, index: tuple, line: str, colour: str, words: str) -> None:
    x = list(sweep.axes.values())[axis] if sweep.axes else np.zeros(1)
    mean, error = np.atleast_1d(sweep.mean[name][index]), np.atleast_1d(sweep.error[name][index])
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
    return f"{value:g}" if isinstance(value, (int, float, np.number)) else str(value)[:24]
