"""Temperatures of lattice and spins: means with errors, and their fluctuations against those of the canonical ensemble.

    T_lattice = 2K/(n_dof k_B),     in equilibrium  σ(T) = T √(2/n_dof)
    T_spin    from torques and stiffness (docs/conventions.md), the value of each row

The kinetic energy of n_dof degrees of freedom has a Gamma distribution in the canonical ensemble. At constant energy it
fluctuates less: energy goes to and fro between the motion and the rest of the system. A Nosé-Hoover chain is canonical, too.
"""

import math

import numpy as np

from spinmd.analysis.conditions import bath_temperature, degrees_of_freedom, has_bath, negative_rows
from spinmd.analysis.figures import abscissa, label, legend, points
from spinmd.analysis.reading import EQUILIBRIUM, Window
from spinmd.analysis.results import Result, with_error
from spinmd.analysis.statistics import correlation_time, mean_with_error, too_short
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

NAMES = {"lattice": "lattice_temperature", "spin": "spin_temperature"}


def temperatures(
    trajectory: Trajectory, window: Window = EQUILIBRIUM, *, series: bool = True, progress: bool = False
) -> Result:
    """Lattice and spin temperature of one run: means with errors, and fluctuations.

    Quantities: lattice_temperature and spin_temperature K, lattice_deviation and spin_deviation K (standard deviation of the rows,
    with its error), lattice_deviation_expected K (√(2/n_dof) T), degrees_of_freedom, bath_temperature K where there is one; with
    ``series`` time ps, step and {lattice,spin}_temperature_series K. What the run has not (a frozen lattice, no spins) is left out;
    InputError where it has neither.
    """
    result = Result("temperature", settings=window.settings(), sources=[str(trajectory.path)])
    rows = window.rows(trajectory)
    baths = {name: bath_temperature(trajectory, where) for name, where in (("lattice", "lattice"), ("spin", "spins"))}
    if has_bath(trajectory) and baths["lattice"] is not None and baths["lattice"] == baths["spin"]:
        result.add("bath_temperature", baths["spin"], "K", "of the deck")
    freedom = degrees_of_freedom(trajectory)
    shown = []
    for name, column in NAMES.items():
        values = rows[column]
        finite = np.isfinite(values) & (values != 0.0)
        if not finite.any() or (name == "lattice" and freedom is None):
            continue
        shown.append(name)
        mean, error = mean_with_error(values)
        result.add(column, mean, "K", f"mean temperature of the {'lattice' if name == 'lattice' else 'spins'}", error)
        deviation, own = _deviation(values[np.isfinite(values)])
        result.add(f"{name}_deviation", deviation, "K", "standard deviation of the rows", own)
        tau = correlation_time(values[np.isfinite(values)])
        note = too_short(int(np.isfinite(values).sum()), tau)
        if note is not None:
            result.notes.append(f"{trajectory.path.name}, {name} temperature: {note}")
        note = negative_rows(trajectory, values) if name == "spin" else None
        if note is not None:
            result.notes.append(note)
        if name == "lattice":
            expected = mean * math.sqrt(2.0 / freedom)
            result.add("lattice_deviation_expected", expected, "K", "√(2/n_dof) T, in the canonical ensemble")
            result.add("degrees_of_freedom", freedom, "1", "of the lattice")
            if not has_bath(trajectory):
                result.notes.append(
                    "without a bath the temperature fluctuates less than √(2/n_dof) T, since energy is shared with the rest"
                )
    if not shown:
        raise InputError("has neither a moving lattice nor spins, so no temperature", str(trajectory.path))
    if "spin" in shown:
        result.notes.append(
            "the spin temperature is the mean of the quotients of the rows; of few spins it is a little off the quotient of means"
        )
    if series:
        result.add("time", rows["time"], "ps", "of the rows", axes=("time",))
        result.add("step", rows["step"], "1", "of the rows", axes=("time",))
        for name in shown:
            result.add(f"{name}_temperature_series", rows[NAMES[name]], "K", "of each row", axes=("time",))
    return result


def _deviation(values: np.ndarray) -> tuple[float, float]:
    """Standard deviation of correlated values, and its standard error."""
    if len(values) < 2:
        return math.nan, math.nan
    squares = (values - values.mean()) ** 2
    variance, error = mean_with_error(squares)
    return math.sqrt(variance), 0.5 * error / math.sqrt(variance) if variance > 0.0 else 0.0


def draw_temperature(result: Result, figure) -> None:
    """Of one run series and histograms; of several the means against what tells them apart."""
    names = [name for name in NAMES if NAMES[name] in result]
    if "time" not in result or result.quantity(NAMES[names[0]]).values.ndim:
        x, words = abscissa(result)
        left, right = figure.subplots(1, 2)
        for kind, name in enumerate(names):
            text = "lattice" if name == "lattice" else "spins"
            points(left, result, NAMES[name], x, kind=kind, label=text)
            points(right, result, f"{name}_deviation", x, kind=kind, label=text)
        if "lattice" in names:
            style = {"marker": "none", "linestyle": "--", "color": "0.4", "label": "lattice, canonical"}
            points(right, result, "lattice_deviation_expected", x, **style)
        left.set(xlabel=words, ylabel=label("mean temperature", "K"))
        right.set(xlabel=words, ylabel=label("standard deviation", "K"), ylim=(0, None))
        left.legend()
        legend(left)
        legend(right)
        return
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1), sharey=True)
    time = result["time"]
    x, words = (time, label("time", "ps")) if np.ptp(time) > 0.0 else (result["step"], "step (sweeps)")
    for k, name in enumerate(names):
        values = result[f"{name}_temperature_series"]
        mean, error = result[NAMES[name]], result.error(NAMES[name])
        text = f"{'lattice' if name == 'lattice' else 'spins'}: ({with_error(mean, error)}) K"
        left.plot(x, values, color=f"C{k}", linewidth=0.9, label=text)
        found, edges, _ = right.hist(
            values[np.isfinite(values)], bins=40, density=True, orientation="horizontal", color=f"C{k}", alpha=0.45
        )
        if name == "lattice":
            from scipy.stats import gamma

            shape = 0.5 * result["degrees_of_freedom"]
            grid = np.linspace(edges[0], edges[-1], 200)
            density = gamma.pdf(grid, shape, scale=mean / shape)
            right.plot(density, grid, color=f"C{k}", label="canonical")
            right.legend(loc="upper right")
    left.set(xlabel=words, ylabel=label("temperature", "K"))
    right.set(xlabel=label("probability density", "1/K"))
    left.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
