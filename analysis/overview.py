"""Runs at a glance: what ``spinmd plot`` draws of the thermo table of a run, or of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spinmd.analysis.figures import COLOURS, figure, label
from spinmd.analysis.reading import unfinished
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
            remedy = unfinished(trajectory) or "write more (output.thermo in the deck)"
            raise InputError(
                f"its thermo table has fewer than two rows, which make no curve; {remedy}", str(trajectory.path)
            )
        timeless = np.ptp(table["time"]) == 0.0  # Monte Carlo counts sweeps, not time
        x = np.asarray(table["step"] if timeless else table["time"], dtype=np.float64)
        first, _ = trajectory.last_stage
        begins = float(x[np.searchsorted(table["step"], first)]) if 0 < first <= table["step"][-1] else None
        words = "step" if timeless else label("time", "ps")
        return cls(table, x, words, trajectory.system_atoms, begins, trajectory.path.stem)

    def has(self, *names: str) -> bool:
        """Whether some of these columns holds something."""
        return any(self.column(name) is not None for name in names)

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
        single = rows[0] if len(rows) == 1 else None
        panels = _single_panels(single) if single is not None else _compared_panels(rows)
        shown = [(draw, arguments) for draw, arguments, columns in panels if any(one.has(*columns) for one in rows)]
        if not shown:
            raise InputError("its thermo table holds nothing to draw", str(runs[0].path))
        wide = 1 if len(shown) == 1 else 2
        places = drawn.subplots(-(-len(shown) // wide), wide, squeeze=False).ravel()
        for axes, (draw, arguments) in zip(places, shown, strict=False):
            draw(axes, *arguments)
            axes.set_xlabel(rows[0].words)
            axes.ticklabel_format(axis="y", useOffset=False)
            _calm(axes)
            lines, words = axes.get_legend_handles_labels()
            if words:  # above the curves, which it must not hide
                axes.legend(lines, words, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=min(len(words), 4), fontsize=9,
                            borderaxespad=0.2, columnspacing=1.2, handlelength=1.5)  # fmt: skip
            if single is not None and single.stage is not None:
                axes.axvline(single.stage, color="0.6", linewidth=1, linestyle=":")
        for axes in places[len(shown) :]:
            axes.set_visible(False)
        drawn.suptitle(_title(runs), fontsize=12)


def _single_panels(rows: "_Rows") -> list[tuple]:
    """What draws each panel of one run, its arguments, and the columns of which it needs one."""
    return [
        (_draw_energies, (rows,), tuple(ENERGIES)),
        (_draw_temperatures, (rows,), tuple(TEMPERATURES)),
        (_draw_magnetisation, (rows,), ("magnetisation",)),
        (_draw_drift, ([rows],), ("conserved",)),
    ]


def _compared_panels(rows: Sequence["_Rows"]) -> list[tuple]:
    """As ``_single_panels``, of several runs."""
    return [
        (_compare, (rows, "total_energy", "total energy", "meV/atom", 1e3, True), ("total_energy",)),
        (_compare, (rows, None, "temperature", "K"), tuple(TEMPERATURES)),
        (_compare, (rows, "magnetisation", "mean moment |m|", "µB/atom"), ("magnetisation",)),
        (_draw_drift, (rows,), ("conserved",)),
    ]


def _calm(axes: Any) -> None:
    """Curves that are constant but for rounding do not fill the panel."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.zeros(1)])
    values = values[np.isfinite(values)]
    if len(values):
        largest, span = float(np.abs(values).max()), float(np.ptp(values))
        floor = max(1.0e-7 * largest, 1.0e-7)
        if span < floor:
            middle = float(values.mean())
            half = max(0.05 * abs(middle), 1.0e-3)
            axes.set_ylim(middle - half, middle + half)


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
                {"color": "0.15", "linewidth": 1.2, "linestyle": "--", "zorder": 3}
                if name == "total_energy"
                else {"color": COLOURS[k]}
            )
            rows.draw(axes, values - values[np.isfinite(values)][0], label=words, **emphasis)
    axes.set(ylabel=label("energy − first", "meV/atom"))


def _draw_temperatures(axes: Any, rows: _Rows) -> None:
    for k, (name, words) in enumerate(TEMPERATURES.items()):
        values = rows.column(name)
        if values is not None:
            rows.draw(axes, values, label=words, color=COLOURS[k])
    axes.set(ylabel=label("temperature", "K"))
    _from_zero(axes)


def _draw_magnetisation(axes: Any, rows: _Rows) -> None:
    for k, part in enumerate("xyz"):
        values = rows.column(f"magnetisation_{part}")
        if values is not None:
            rows.draw(axes, values, label=f"$m_{part}$", color=COLOURS[k], linewidth=1.2)
    values = rows.column("magnetisation")
    if values is not None:
        rows.draw(axes, values, label="$|m|$", color="0.15")
    axes.set(ylabel=label("mean moment", "µB/atom"))


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
                axes.lines[-1].set_label(text)
    axes.set(ylabel=label("conserved − first", "meV/atom"))


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
    words = "temperature, spins dashed" if name is None else f"{words} − first" if relative else words
    axes.set(ylabel=label(words, unit))
    if name is None:
        _from_zero(axes)


def _from_zero(axes: Any) -> None:
    low, high = axes.get_ylim()
    if 0.0 < low < 0.5 * high:
        axes.set_ylim(0.0, None)
