"""Pressure, stress and cell of a run: means with errors.

    P = (2K + tr W)/(3V),     σ_ab = −(Σ m v_a v_b + W_ab)/V,     P = −tr σ/3

P is in every row of the thermo table. The stress needs the virial W of whole configurations, which no file keeps: a function that
evaluates the run's own potentials at a frame is handed in (``spinmd analyze pressure --stress`` has it), and frames need
positions and velocities. Lattice constants are the lengths of the lattice vectors over the number of unit cells.
"""

from collections.abc import Callable

import numpy as np

from spinmd.analysis.conditions import bath_temperature, supercell
from spinmd.analysis.figures import abscissa, label, legend, points
from spinmd.analysis.reading import EQUILIBRIUM, Window, pieces
from spinmd.analysis.results import Result, with_error
from spinmd.analysis.statistics import correlation_time, mean_with_error, too_short
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory
from spinmd.units import AMU, EV_PER_A3_IN_GPA

COMPONENTS = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}
ANGLES = {"alpha": (1, 2), "beta": (0, 2), "gamma": (0, 1)}


def pressure_and_cell(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, virial: Callable | None = None, series: bool = True,
    progress: bool = False,
) -> Result:  # fmt: skip
    """Pressure, volume and lattice constants of one run, and its stress if ``virial`` is given.

    virial  (cell, positions, spins) of a frame, in the order of the run's structure -> (3, 3) eV

    Quantities: pressure GPa, pressure_deviation GPa, volume Å³ (of the cell), volume_per_atom Å³, a, b, c Å, alpha, beta, gamma
    degrees, stress_{xx,...} GPa (positive: tension); temperature K of the bath; with ``series`` time ps, step, pressure_series
    GPa. Where a term of the energy has no virial there is no pressure, and a note.
    """
    result = Result("pressure", settings=window.settings(), sources=[str(trajectory.path)])
    rows = window.rows(trajectory)
    kelvin = bath_temperature(trajectory, "lattice")
    if kelvin is not None:
        result.add("temperature", kelvin, "K", "of the bath")
    pressure = rows["pressure"]
    good = np.isfinite(pressure)
    if good.any():
        mean, error = mean_with_error(pressure)
        result.add("pressure", mean, "GPa", "mean of the rows", error)
        spread = float(pressure[good].std(ddof=1)) if good.sum() > 1 else np.nan
        result.add("pressure_deviation", spread, "GPa", "standard deviation of the rows")
        note = too_short(int(good.sum()), correlation_time(pressure[good]))
        if note is not None:
            result.notes.append(f"{trajectory.path.name}: {note}")
    else:
        result.notes.append("no pressure: a term of the energy has no virial")
    _add_cell(result, trajectory, window)
    if virial is not None:
        _add_stress(result, trajectory, window, virial, progress)
    elif good.any():
        result.notes.append(
            "the components of the stress are not in the file; --stress has them computed from its frames"
        )
    if series and good.any():
        result.add("time", rows["time"], "ps", "of the rows", axes=("time",))
        result.add("step", rows["step"], "1", "of the rows", axes=("time",))
        result.add("pressure_series", pressure, "GPa", "of each row", axes=("time",))
    return result


def _add_cell(result: Result, trajectory: Trajectory, window: Window) -> None:
    cells = window.frames(trajectory).cells
    lengths = np.linalg.norm(cells, axis=2)
    volumes = np.abs(np.linalg.det(cells))
    result.add("volume", *_estimate(volumes, "Angstrom^3", "of the cell"))
    result.add("volume_per_atom", *_estimate(volumes / trajectory.system_atoms, "Angstrom^3", "per atom"))
    for k, (name, count) in enumerate(zip("abc", supercell(trajectory), strict=True)):
        meaning = f"length of the lattice vector {name} of the unit cell, over {count} cells"
        result.add(name, *_estimate(lengths[:, k] / count, "Angstrom", meaning))
    for name, (i, j) in ANGLES.items():
        cosine = np.einsum("fk,fk->f", cells[:, i], cells[:, j]) / (lengths[:, i] * lengths[:, j])
        result.add(name, *_estimate(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))), "deg", "of the cell"))


def _estimate(values: np.ndarray, unit: str, meaning: str) -> tuple:
    mean, error = mean_with_error(values)
    return mean, unit, meaning, (0.0 if np.ptp(values) == 0.0 else error)


def _add_stress(result, trajectory, window, virial, progress) -> None:
    if trajectory.natoms != trajectory.system_atoms:
        raise InputError(
            "stores a choice of its atoms, and the stress needs all; leave output.atoms out and run again",
            str(trajectory.path),
        )
    names = ("positions", "velocities", *(["spins"] if (trajectory.moments > 0.0).any() else []))
    values = []
    part = window.frames(trajectory)
    for piece, positions, velocities, *spins in pieces(part, *names, progress=progress, label="stress"):
        for k, cell in enumerate(piece.cells):
            moving = AMU * np.einsum("n,na,nb->ab", trajectory.masses, velocities[k], velocities[k], optimize=True)
            forces = virial(cell, positions[k], spins[0][k] if spins else None)
            values.append(-(moving + forces) / abs(np.linalg.det(cell)) * EV_PER_A3_IN_GPA)
    stress = np.array(values)
    stress = 0.5 * (stress + stress.transpose(0, 2, 1))
    for name, (i, j) in COMPONENTS.items():
        mean, error = mean_with_error(stress[:, i, j])
        result.add(f"stress_{name}", mean, "GPa", "symmetric part, of the frames; positive: tension", error)
    mean, error = mean_with_error(-np.trace(stress, axis1=1, axis2=2) / 3.0)
    result.add("pressure_of_frames", mean, "GPa", "−tr σ/3 of the frames", error)
    result.settings["stress"] = True


def draw_pressure(result: Result, figure) -> None:
    """Of one run the pressure in time; of several pressure and lattice constants against what tells them apart."""
    if "pressure" not in result:
        raise InputError("there is no pressure to draw: a term of the energy has no virial", "--plot")
    if result.quantity("pressure").values.ndim == 0 and "time" in result:
        axes = figure.subplots()
        axes.plot(result["time"], result["pressure_series"], linewidth=0.9, color="C0")
        mean, error = result["pressure"], result.error("pressure")
        axes.axhline(mean, color="C1", linewidth=1.4)
        axes.set(xlabel=label("time", "ps"), ylabel=label("pressure", "GPa"))
        axes.set_title(f"P = ({with_error(mean, error)}) GPa", loc="left")
        return
    x, words = abscissa(result)
    left, right = figure.subplots(1, 2)
    points(left, result, "pressure", x)
    left.set(xlabel=words, ylabel=label("pressure", "GPa"))
    for kind, name in enumerate("abc"):
        points(right, result, name, x, kind=kind, label=name)
    right.set(xlabel=words, ylabel=label("lattice constant", "Angstrom"))
    legend(left)
    legend(right)
