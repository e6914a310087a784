"""Heat capacity of a run in a bath, from the fluctuations of its energy, and of a sweep over temperatures, from its slope.

    C = (⟨E²⟩ − ⟨E⟩²) / (k_B T²)        canonical ensemble, at constant volume
    C = d⟨E⟩/dT                          of runs at several temperatures

Both in k_B per atom and in J/(mol K). At constant energy E does not fluctuate: such a run is refused. The kinetic
energy of a lattice that stands still is no part of it.
"""

import numpy as np

from spinmd.analysis.conditions import bath_temperature, ensemble, has_bath, lattice_moves, spins_move
from spinmd.analysis.figures import abscissa, label, legend, marks, own_mark, points
from spinmd.analysis.magnetisation import LADDER
from spinmd.analysis.reading import EQUILIBRIUM, Window
from spinmd.analysis.results import RUN, Result, alike, with_error
from spinmd.analysis.statistics import Blocks, too_short
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory
from spinmd.units import BOLTZMANN, ELEMENTARY_CHARGE

AVOGADRO = 6.02214076e23
GAS_CONSTANT = AVOGADRO * BOLTZMANN * ELEMENTARY_CHARGE  # J/(mol K)


def specific_heat(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, series: bool = True, progress: bool = False
) -> Result:
    """Heat capacity at constant volume of one run in a bath, from the fluctuations of its total energy.

    Quantities (of parallel tempering with an axis "temperature"): temperature K, energy (⟨E⟩, eV per atom), heat_capacity (k_B per
    atom), heat_capacity_molar J/(mol K), heat_capacity_potential (k_B per atom; of the potential energy, spins included, alone),
    correlation_time; with ``series`` time ps, step and energy_series (eV per atom). Raises InputError for a run without a bath,
    or with one whose temperature changes.
    """
    result = Result("heat-capacity", settings=window.settings(), sources=[str(trajectory.path)])
    chosen = window.chosen_rows(trajectory, fewest=2)
    atoms = trajectory.system_atoms
    arrays, thermo = trajectory.row_arrays, trajectory.thermo
    axes: tuple[str, ...] = ()
    if ensemble(trajectory) == "parallel-tempering" and "spin_energy" in arrays:
        energies = arrays["spin_energy"][chosen]
        good = np.isfinite(energies).all(axis=1)
        if np.count_nonzero(good) < 2:
            raise InputError("holds no rows of parallel tempering; run longer", str(trajectory.path))
        energies, temperatures = energies[good], arrays["temperature"][chosen][good][-1]
        potentials, axes = energies, (LADDER,)
    else:
        temperatures = np.array([_canonical_temperature(trajectory)])
        moving = lattice_moves(trajectory)
        potentials = (thermo["lattice_potential_energy"] + thermo["spin_energy"])[chosen][:, None]
        energies = potentials + (thermo["kinetic_energy"][chosen][:, None] if moving else 0.0)
    estimates, blocks = [], []
    for k, kelvin in enumerate(temperatures):
        # fluctuations are small against the energy itself: take its mean off before squaring
        parts = [column[:, k] - column[:, k].mean() for column in (energies, potentials)]
        blocks.append(Blocks(np.column_stack([c for part in parts for c in (part, part**2)]), parts[0], seed=k))
        estimates.append(blocks[-1].values(lambda mean, kelvin=kelvin: _functions(mean, kelvin, atoms)))
    values, errors = (np.array([one[part] for one in estimates]) for part in (0, 1))
    values[:, 0] += energies.mean(axis=0) / atoms
    result.add("temperature", temperatures if axes else temperatures[0], "K", "of the bath", axes=axes)
    capacity = "at constant volume, from the fluctuations of the energy"
    for k, (name, unit, meaning) in enumerate(
        [
            ("energy", "eV", "mean total energy per atom"),
            ("heat_capacity", "k_B", f"per atom, {capacity}"),
            ("heat_capacity_potential", "k_B", "per atom, of the potential energy alone (spins included)"),
        ]
    ):
        result.add(
            name, values[:, k] if axes else values[0, k], unit, meaning, errors[:, k] if axes else errors[0, k], axes
        )
    one = result.quantity("heat_capacity")
    result.add("heat_capacity_molar", GAS_CONSTANT * one.values, "J/(mol K)", capacity, GAS_CONSTANT * one.error, axes)
    tau = np.array([one.tau for one in blocks])
    result.add("correlation_time", tau if axes else tau[0], "1", "of the energy, in rows", axes=axes)
    worst = max(blocks, key=lambda one: one.tau)
    note = too_short(worst.rows, worst.tau)
    if note is not None:
        result.notes.append(f"{trajectory.path.name}: {note}")
    if not lattice_moves(trajectory):
        result.notes.append("the lattice stands still: this is the heat capacity of the spins alone")
    elif not spins_move(trajectory) and (trajectory.moments > 0.0).any():
        result.notes.append("the spins stand still: this is the heat capacity of the lattice alone")
    if ensemble(trajectory) == "nvt" and spins_move(trajectory):
        result.notes.append(
            "this thermostat acts on the lattice only: with exchange that does not depend on distances the spins have no bath, and "
            "their part is missing"
        )
    if series and not axes:
        result.add("time", thermo["time"][chosen], "ps", "of the rows", axes=("time",))
        result.add("step", thermo["step"][chosen], "1", "of the rows", axes=("time",))
        result.add("energy_series", energies[:, 0] / atoms, "eV", "total energy per atom in each row", axes=("time",))
    return result


def _canonical_temperature(trajectory: Trajectory) -> float:
    """K of the bath; InputError where there is none, or none of one temperature."""
    place = str(trajectory.path)
    if not has_bath(trajectory):
        raise InputError(
            f"its last stage has constant energy or no bath ({ensemble(trajectory)}), so that the total energy does not fluctuate "
            "as in the canonical ensemble; run with ensemble = langevin, nvt or monte-carlo",
            place,
        )
    kelvins = {bath_temperature(trajectory, of) for of in _moving(trajectory)}
    kelvin = kelvins.pop() if len(kelvins) == 1 else None
    if kelvin is None or not kelvin > 0.0:
        raise InputError(
            "its bath has no single constant temperature above zero, which fluctuations need; run at a constant one, or take the "
            "slope of a sweep over temperatures",
            place,
        )
    return kelvin


def _moving(trajectory: Trajectory) -> list[str]:
    parts = [("lattice", lattice_moves(trajectory)), ("spins", spins_move(trajectory))]
    return [name for name, moves in parts if moves] or ["spins"]


def _functions(mean: np.ndarray, kelvin: float, atoms: int) -> np.ndarray:
    factor = 1.0 / (BOLTZMANN * kelvin) ** 2 / atoms
    capacities = [factor * np.maximum(mean[..., k + 1] - mean[..., k] ** 2, 0.0) for k in (0, 2)]
    return np.stack([mean[..., 0] / atoms, *capacities], axis=-1)


def add_slope(result: Result) -> Result:
    """C = d⟨E⟩/dT of runs laid side by side (or of parallel tempering): ``heat_capacity_slope``, k_B per atom, with its error.

    Of a sweep over more than temperatures there is one slope for each value of the rest, seeds included. At inner temperatures the
    parabola through three neighbours, at the ends the straight line through two. NaN and a note where temperatures are fewer than
    two or occur twice; no such quantity where there is no slope at all.
    """
    energy, temperature = result.quantity("energy"), result.quantity("temperature")
    if energy.values.ndim != 1 or temperature.axes not in ((RUN,), (LADDER,)):
        return result
    kelvin = temperature.values.astype(float)
    own = own_mark(result, kelvin)
    columns = [one.values for name, one in marks(result).items() if name != own]
    slope, error = np.full((2, len(kelvin)), np.nan)
    for runs in alike(columns, len(kelvin)):
        order = runs[np.argsort(kelvin[runs])]
        if len(order) < 2 or (np.diff(kelvin[order]) <= 1.0e-9 * kelvin.max()).any():
            continue
        weights = _derivative(kelvin[order])
        slope[order] = weights @ energy.values[order] / BOLTZMANN
        error[order] = np.sqrt(weights**2 @ energy.error[order] ** 2) / BOLTZMANN
    missing = np.count_nonzero(np.isnan(slope))
    if missing:
        of = "" if missing == len(slope) else f" of {missing} of {len(slope)} points"
        result.notes.append(f"no slope dE/dT{of}: it needs runs at two or more temperatures, one at each")
    if missing < len(slope):
        meaning = "per atom, slope of the mean energy between neighbouring temperatures"
        result.add("heat_capacity_slope", slope, "k_B", meaning, error, energy.axes)
    return result


def _derivative(x: np.ndarray) -> np.ndarray:
    """(n, n) matrix whose product with y (n,) is dy/dx at ascending x, of second order inside."""
    n = len(x)
    matrix = np.zeros((n, n))
    for k in range(n):
        if k in (0, n - 1):
            a = min(k, n - 2)
            matrix[k, a : a + 2] = np.array([-1.0, 1.0]) / (x[a + 1] - x[a])
            continue
        left, right = x[k] - x[k - 1], x[k + 1] - x[k]
        total = left + right
        matrix[k, k - 1 : k + 2] = -right / (left * total), (right - left) / (left * right), left / (right * total)
    return matrix


def draw_heat_capacity(result: Result, figure) -> None:
    """Of one run its energy in time; of several, or of parallel tempering, C from fluctuations and from the slope of E."""
    one = result.quantity("heat_capacity")
    if one.values.ndim == 0 and "time" in result:
        _draw_energy(result, figure)
        return
    if one.values.ndim > 1:
        raise InputError("several runs of parallel tempering have no common figure; draw each alone", "--plot")
    x, words = abscissa(result) if one.axes != (LADDER,) else (result["temperature"], label("temperature", "K"))
    axes = figure.subplots()
    points(axes, result, "heat_capacity", x, label="fluctuations of the energy", linestyle="none")
    if "heat_capacity_slope" in result:
        points(axes, result, "heat_capacity_slope", x, label="slope dE/dT", kind=1, markerfacecolor="white")
    axes.set(xlabel=words, ylabel="heat capacity ($k_B$ per atom)", ylim=(0, None))
    legend(axes)


def _draw_energy(result: Result, figure) -> None:
    axes = figure.subplots()
    time = result["time"]
    x, words = (time, label("time", "ps")) if np.ptp(time) > 0.0 else (result["step"], "step (sweeps)")
    shift, kelvin = result["energy"], result["temperature"]
    axes.plot(x, 1.0e3 * (result["energy_series"] - shift), linewidth=0.9)
    axes.axhline(0.0, color="0.4", linewidth=1)
    axes.set(xlabel=words, ylabel="E − ⟨E⟩ (meV per atom)")
    value, error = result["heat_capacity"], result.error("heat_capacity")
    axes.set_title(f"{kelvin:g} K:  C = ({with_error(value, error)}) $k_B$ per atom", loc="left")
