"""Energy that flows between lattice, spins and baths, from the thermo table.

    E_lattice = kinetic energy + energy of the terms without spins,     E_spins = energy of the terms with spins,
    Q_baths(t) = [E_total(t) − E_total(0)] − [E_conserved(t) − E_conserved(0)]: the heat that baths and damping have given

so that ΔE_lattice + ΔE_spins = Q_baths (+ what fields that change in time have done, and the error of the integration, which
``conserved`` holds). Exchange that depends on distances belongs to the spins. Rates are slopes of parabolas through the rows of a
short time (Savitzky and Golay). The relaxation time is that of T_lattice − T_spins = a e^{−t/τ} + c.
"""

import numpy as np

from spinmd.analysis.figures import label, run_labels
from spinmd.analysis.reading import WHOLE_STAGE, Window, check_clock
from spinmd.analysis.results import RUN, Result
from spinmd.drift import mean_and_error
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

ROWS = 8  # at least
SMOOTHING = 0.02  # of the window, over which rates are taken


def flow_of_energy(
    trajectory: Trajectory, window: Window = WHOLE_STAGE, *, smoothing: float | None = None, progress: bool = False
) -> Result:
    """Energies, heat and rates of one run, per atom, relative to the first row of the window.

    smoothing  ps, over which rates are taken; None: a fiftieth of the window

    Quantities: time (n,) ps, lattice_energy, spin_energy, total_energy, bath_heat (n,) meV/atom, lattice_rate, spin_rate, bath_rate
    (n,) meV/(atom ps), lattice_temperature, spin_temperature (n,) K; transferred meV/atom (what the spins have gained at the
    end), relaxation_time ps and final_difference K with errors where the temperatures approach each other; mean_rate.
    Raises InputError for fewer than eight rows.
    """
    if smoothing is not None and not smoothing > 0.0:
        raise InputError(f"expected a positive time in ps, got {smoothing:g}", "--smoothing")
    rows = window.rows(trajectory, fewest=ROWS)
    time = np.asarray(rows["time"], dtype=float)
    check_clock(trajectory, time)
    per = 1.0e3 / trajectory.system_atoms
    energies = {
        "lattice_energy": (
            rows["kinetic_energy"] + rows["lattice_potential_energy"],
            "change of the kinetic energy and that of terms without spins",
        ),
        "spin_energy": (rows["spin_energy"], "change of the energy of terms with spins"),
        "total_energy": (rows["total_energy"], "change of all energies"),
        "bath_heat": (rows["total_energy"] - rows["conserved"], "heat that baths and damping have given"),
    }
    span = time[-1] - time[0]
    width = SMOOTHING * span if smoothing is None else smoothing
    result = Result("energy-flow", settings={**window.settings(), "smoothing": width})
    result.sources.append(str(trajectory.path))
    result.add("time", time, "ps", "of the run", axes=("time",))
    flows = {}
    for name, (values, words) in energies.items():
        change = (values - values[0]) * per
        if not np.isfinite(change).all():
            result.notes.append(f"the run's table has no complete {name.replace('_', ' ')}")
            continue
        flows[name] = change
        result.add(name, change, "meV/atom", words, axes=("time",))
    for name, rate in (("lattice_energy", "lattice_rate"), ("spin_energy", "spin_rate"), ("bath_heat", "bath_rate")):
        if name in flows:
            result.add(
                rate,
                slopes(time, flows[name], width),
                "meV/(atom ps)",
                f"rate of {name.replace('_', ' ')}",
                axes=("time",),
            )
    lattice, spins = rows["lattice_temperature"], rows["spin_temperature"]
    result.add("lattice_temperature", lattice, "K", "of the lattice", axes=("time",))
    result.add("spin_temperature", spins, "K", "of the spins", axes=("time",))
    result.add("transferred", flows["spin_energy"][-1], "meV/atom", "what the spins have gained by the end")
    balance = flows["lattice_energy"] + flows["spin_energy"] - flows.get("bath_heat", 0.0)
    result.add(
        "imbalance",
        float(np.abs(balance - balance[0]).max()),
        "meV/atom",
        "largest deviation from the balance of energies",
    )
    # over independent stretches, whose means are slopes between their ends
    rate, error = mean_and_error(np.diff(flows["spin_energy"]) / np.diff(time))
    result.add("mean_rate", rate, "meV/(atom ps)", "at which the spins gain energy", error)
    _relax(result, time, lattice - spins)
    return result


def slopes(time: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """(n,) derivative of values (n,) by parabolas over ``width`` ps around each row, or three rows at least."""
    from scipy.signal import savgol_filter

    spacing = np.diff(time)
    if np.ptp(spacing) > 1.0e-6 * spacing.mean():  # stages with other intervals
        even = np.linspace(time[0], time[-1], len(time))
        return np.interp(time, even, slopes(even, np.interp(even, time, values), width))
    rows = min(2 * max(1, round(0.5 * width / spacing.mean())) + 1, len(time) - (len(time) + 1) % 2)
    return savgol_filter(values, rows, min(2, rows - 1), deriv=1, delta=float(spacing.mean()))


def _relax(result: Result, time: np.ndarray, difference: np.ndarray) -> None:
    """Fit of a e^{−t/τ} + c; a note where there is none."""
    from scipy.optimize import curve_fit

    good = np.isfinite(difference)
    time, difference = time[good] - time[0], difference[good]
    if len(time) < ROWS or not time[-1] > 0.0:
        return
    tail = difference[-max(2, len(time) // 4) :]
    first, last = difference[: max(2, len(time) // 50)].mean(), tail.mean()
    if abs(first - last) < 3.0 * tail.std():
        result.notes.append(
            "the temperatures of lattice and spins do not approach each other in this window: no relaxation time"
        )
        return
    crossed = np.flatnonzero(np.abs(difference - last) < abs(first - last) / np.e)
    guess = max(time[crossed[0]] if len(crossed) else time[-1], time[1])
    try:
        found, covariance = curve_fit(
            lambda t, a, tau, c: a * np.exp(-t / tau) + c, time, difference, (first - last, guess, last),
            bounds=([-np.inf, 1.0e-3 * time[1], -np.inf], [np.inf, 100.0 * time[-1], np.inf]),
        )  # fmt: skip
    except RuntimeError:
        result.notes.append("the difference of the temperatures does not fall exponentially: no relaxation time")
        return
    # neighbouring rows scatter together: their correlation time widens the errors
    residual = difference - (found[0] * np.exp(-time / found[1]) + found[2])
    error = np.sqrt(np.diag(covariance) * max(1.0, 2.0 * _correlated_rows(residual)))
    if found[1] > time[-1]:
        result.notes.append(
            f"the fitted relaxation time, {found[1]:.3g} ps, is longer than the window; take it as a bound"
        )
    result.add("relaxation_time", found[1], "ps", "τ of T_lattice − T_spins = a exp(−t/τ) + c", error[1])
    result.add("final_difference", found[2], "K", "c, the difference of the temperatures in the end", error[2])


def _correlated_rows(values: np.ndarray) -> float:
    """½ + Σ C(k) up to the first zero of the autocorrelation, in rows."""
    values = values - values.mean()
    spectrum = np.abs(np.fft.rfft(values, 2 * len(values))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(values)]
    if not correlation[0] > 0.0:
        return 0.5
    negative = np.flatnonzero(correlation < 0.0)
    return 0.5 + float(correlation[1 : negative[0] if len(negative) else None].sum() / correlation[0])


def draw_energy_flow(result: Result, figure) -> None:
    """Temperatures, energies and rates over time."""
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    several = result.quantity("spin_energy").axes[:1] == (RUN,)
    count = len(result["spin_energy"]) if several else 1
    names = run_labels(result, count) if several else [""]
    time = np.atleast_2d(result["time"])
    panels = (
        (top, (("lattice_temperature", "lattice"), ("spin_temperature", "spins"))),
        (middle, (("lattice_energy", "lattice"), ("spin_energy", "spins"), ("bath_heat", "heat of baths"))),
        (bottom, (("lattice_rate", "lattice"), ("spin_rate", "spins"), ("bath_rate", "baths"))),
    )
    for axes, quantities in panels:
        for k in range(count):
            for number, (name, words) in enumerate(quantities):
                if name not in result or (name.startswith("bath") and not np.abs(result[name]).max() > 1.0e-3):
                    continue
                values = np.atleast_2d(result[name])[k]
                style = {"color": f"C{number}", "alpha": 1.0 - 0.7 * k / count}
                axes.plot(time[min(k, len(time) - 1)], values, label=f"{words} {names[k]}".strip(), **style)
        axes.legend(loc="best", ncols=3)
    for axes in (middle, bottom):
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    top.set_ylabel(label("temperature", "K"))
    middle.set_ylabel(label("energy", "meV/atom"))
    bottom.set(xlabel=label("time", "ps"), ylabel="rate (meV/(atom ps))", xlim=(time[0, 0], time[0, -1]))
