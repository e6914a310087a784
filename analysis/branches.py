"""Branches of a dynamical structure factor: positions and widths of its peaks, spin-wave stiffness and velocities.

A peak at E₀ of half width Γ is a Lorentzian; a segment of finite length shows it convolved with the window. The fit is made of
what the window makes of it,

    m(E) = A Δt/(2πħ) [1 + 2 Σ_{τ>0} r(τ) e^{−Γτ/ħ} cos((E − E₀)τ/ħ)] + b,     r(τ) the autocorrelation of the window,

so that positions are finer than the spacing of energies, and widths are those of the line without the window's. Damped harmonic
oscillators of Γ ≪ E₀ are Lorentzians.

Near Γ a ferromagnet has E = D q² (1 − β q²), an antiferromagnet and a lattice E = ħ c q (1 − β q²).
"""

import numpy as np

from spinmd.analysis.brillouin import BrillouinPath
from spinmd.analysis.results import Result
from spinmd.analysis.spectra import CENTRAL, HBAR_MEV, Welch
from spinmd.trajectory import Trajectory

EMPTY = 1.0e-6  # of the highest peak of the map: what is conserved at a wave vector shows rounding alone
PROMINENCE = 0.02  # of the highest peak at this q, for another one
BACKGROUND = 4.0  # times the median of the spectrum, for any
EDGE = 0.03  # of the peak's height: weight of its centre against its tails
TAILS = 8.0  # half widths on either side that are fitted
FEWEST_POINTS = 5
NEAR = 0.5  # of the distance from Γ to the zone's boundary: where the expansion in q² is fitted
FERROMAGNETIC = 0.3  # |ΣS|/Σ|S| from which spin waves go as q²
BLOCKED = 1.5  # neighbouring energies under a Hann window are not independent: equivalent noise bandwidth


def add_branches(
    result: Result, along: BrillouinPath, plan: Welch, most: int, boundary: float, part: Trajectory
) -> None:
    """Fit up to ``most`` peaks at positive energies of S at every wave vector, and the expansion at Γ.

    boundary  1/Å, from Γ to the nearest boundary of the zone

    Adds branch_energy, branch_width (half width at half maximum) meV, branch_weight (nq, branches) with errors, NaN where there
    is none; stiffness meV Å² or spin_wave_velocity, sound_velocity (m/s) with errors, where three wave vectors are near enough.
    """
    energy, spectrum, errors = result["energy"], result["S"], result.error("S")
    positive = energy > 0.5 * plan.step
    least = EMPTY * spectrum[:, energy > CENTRAL * plan.step].max(initial=0.0)
    shape = plan.correlation
    found = np.full((3, 2, len(along), most), np.nan)
    for row, values in enumerate(spectrum):
        if values[energy > CENTRAL * plan.step].max(initial=0.0) <= least:
            continue
        scatter = None if errors is None else errors[row, positive]
        for k, peak in enumerate(fit_peaks(energy[positive], values[positive], scatter, plan, most, shape)):
            found[:, :, row, k] = peak
    per = result.quantity("S").unit.removesuffix("/meV")
    axes = ("distance", "branch")
    for k, (name, unit, words) in enumerate((
        ("branch_energy", "meV", "positions of peaks, in ascending order"),
        ("branch_width", "meV", "their half widths at half maximum, without that of the window"),
        ("branch_weight", per, "their integrals"),
    )):  # fmt: skip
        result.add(name, found[k, 0], unit, words, found[k, 1], axes)
    if not np.isfinite(found[0, 0]).any():
        result.notes.append("no peak stands out from the spectrum; longer runs or more frames may show some")
        return
    broad = found[1, 0] > found[0, 0]
    if broad.any():
        result.notes.append(
            f"{np.count_nonzero(broad)} of {np.count_nonzero(np.isfinite(found[1, 0]))} peaks are wider than their energy: no waves"
        )
    narrow = found[1, 0] < 0.3 * plan.resolution
    if narrow.any():
        result.notes.append(
            f"widths of {np.count_nonzero(narrow)} of {np.count_nonzero(np.isfinite(found[1, 0]))} peaks are below what segments "
            f"of this length resolve ({plan.resolution:.3g} meV half width)"
        )
    _expansions(result, along, found[0], boundary, part)


def fit_peaks(
    energy: np.ndarray, values: np.ndarray, errors: np.ndarray | None, plan: Welch, most: int, correlation: np.ndarray
) -> list[np.ndarray]:
    """Up to ``most`` peaks of a spectrum (n,): [(position, error), (half width, error), (integral, error)] each, by position.

    errors       (n,) of the spectrum, from the scatter of segments, or None
    correlation  of the window, ``Welch.correlation``
    """
    from scipy.signal import find_peaks, peak_widths

    if len(values) < 5 or most < 1 or not values.max() > 0.0:
        return []
    smooth = np.convolve(np.pad(values, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    floor = max(PROMINENCE * smooth.max(), BACKGROUND * np.median(smooth))
    at, properties = find_peaks(smooth, prominence=min(floor, 0.5 * smooth.max()))
    outside = energy[at] > CENTRAL * plan.step
    at, prominence = at[outside], properties["prominences"][outside]
    if not len(at) or smooth.max() < BACKGROUND * np.median(smooth):
        return []
    half = np.maximum(peak_widths(smooth, at, rel_height=0.5)[0] / 2.0, 1.0)
    best = np.argsort(-prominence * half, kind="stable")[:most]
    order = best[np.argsort(at[best])]
    at, half = at[order], half[order]
    peaks = []
    for k, centre in enumerate(at):
        # halfway to the neighbours at most, and not where a static line is
        least = (at[k - 1] + centre) // 2 + 1 if k else int(np.argmax(energy > CENTRAL * plan.step))
        most_far = (at[k + 1] + centre) // 2 + 1 if k + 1 < len(at) else len(values)
        wide, start = half[k] * plan.step, None
        for _ in range(3):
            reach = max(FEWEST_POINTS, TAILS * (wide + plan.resolution) / plan.step)
            low, high = max(least, int(centre - reach)), min(most_far, int(centre + reach) + 1)
            if high - low < FEWEST_POINTS:
                break
            near = slice(low, high)
            scatter = 0.0 if errors is None else float((errors[near] ** 2).sum() / (values[near] ** 2).sum())
            start = _fit(energy[near], values[near], scatter, energy[centre], half[k], plan, correlation)
            if start[1, 0] <= 1.2 * wide:
                break
            wide = start[1, 0]
        if start is not None:
            peaks.append(start)
    return peaks


def _fit(energy, values, scatter, centre, half, plan: Welch, correlation) -> np.ndarray:
    """(3, 2) position, half width and integral with errors, by least squares in which the fit itself gives the weights.

    A spectrum scatters in proportion to its expectation, so that this is the maximum of its likelihood; a small constant
    share keeps the far tails from deciding. ``scatter`` is the relative variance of the spectrum between segments: errors are
    no smaller than it makes them.
    """
    from scipy.optimize import least_squares

    # the sum over τ in as many steps as the oscillation needs, by the trapezoidal rule
    reach = np.abs(energy - centre).max() / plan.step
    count = min(plan.length, int(24 * reach) + 64)
    delay = np.linspace(0.0, plan.length - 1.0, count)
    shape = np.interp(delay, np.arange(plan.length), correlation)
    weights = np.full(count, delay[1] - delay[0])
    weights[[0, -1]] *= 0.5
    delay = delay * plan.dt / HBAR_MEV
    weights = weights * shape * plan.dt / (np.pi * HBAR_MEV)

    def line(position, width):
        return np.cos(np.multiply.outer(energy - position, delay)) @ (weights * np.exp(-width * delay))

    height, step = values.max(), plan.step
    width = max(half * step - plan.resolution, 0.05 * step)
    start = np.array([height / line(centre, width).max(), centre, width, max(values.min(), 0.0)])
    units = np.array([start[0], step, max(width, 0.3 * step), height])
    bounds = (np.array([0.0, energy[0], 0.0, 0.0]) / units, np.array([np.inf, energy[-1], np.inf, np.inf]) / units)
    sigma = np.full(len(values), height)
    for _ in range(6):

        def residual(scaled, sigma=sigma):
            amplitude, position, wide, background = scaled * units
            return (amplitude * line(position, wide) + background - values) / sigma

        first = np.clip(start / units, bounds[0] + 1.0e-9, bounds[1])
        solution = least_squares(residual, first, bounds=bounds, x_scale=1.0, max_nfev=100)
        moved = np.abs(solution.x - first).max()
        start = solution.x * units
        sigma = (residual(solution.x) * sigma + values).clip(0.0) + EDGE * height
        if moved < 1.0e-3:
            break
    freedom = max(len(values) - 4, 1)
    spread = max(2.0 * solution.cost / freedom, scatter) * (BLOCKED if plan.window == "hann" else 1.0)
    variance = np.diag(np.linalg.pinv(solution.jac.T @ solution.jac)) * spread
    error = np.sqrt(np.maximum(variance, 0.0)) * units
    return np.array([[start[k], error[k]] for k in (1, 2, 0)])


# ---------------------------------------------------------------------- at Γ


def _expansions(result: Result, along: BrillouinPath, branches: np.ndarray, boundary: float, part: Trajectory) -> None:
    """Fit of E(q) of the lowest branch in each direction from Γ, and, of a ferromagnet, of all of them together."""
    component = result.settings["component"].split(",")[0]
    spins = result.settings["of"] == "spins"
    if spins and component == "longitudinal":
        return
    if not spins and component not in ("longitudinal", "transverse"):
        result.notes.append(
            "velocities of sound come with --component longitudinal or transverse, where each has its branch alone"
        )
        return
    power = 2 if spins and _order(part) > FERROMAGNETIC else 1
    size = np.linalg.norm(along.q, axis=1)
    energy, error = branches[0, :, 0], branches[1, :, 0]
    usable = (size > 1.0e-9) & (size <= NEAR * boundary * (1.0 + 1.0e-9)) & np.isfinite(energy) & (error < 0.2 * energy)
    directions, values = [], []
    for k, (start, end) in enumerate(along.ends):
        if min(np.linalg.norm(start), np.linalg.norm(end)) < 1.0e-9:
            chosen = usable & (along.segment == k)
            names = along.names[k] if np.linalg.norm(start) < 1.0e-9 else along.names[k][::-1]
            directions.append("-".join(names))
            enough = np.count_nonzero(chosen) >= 2
            values.append(_expand(size[chosen], energy[chosen], error[chosen], power) if enough else (np.nan, np.nan))
    if not np.isfinite(values).any():
        result.notes.append(
            "too few wave vectors near Γ for a stiffness or a velocity: two with a peak are needed in the inner half of the "
            "zone, in one direction"
        )
        return
    values = np.array(values)
    if power == 2:
        name, unit, factor = "stiffness", "meV Angstrom^2", 1.0
        found = values[np.isfinite(values[:, 0])]
        weight = found[:, 1] ** -2.0
        mean = float(found[:, 0] @ weight / weight.sum())
        scatter = np.sqrt(((found[:, 0] - mean) ** 2) @ weight / weight.sum() / max(len(found) - 1, 1))
        words = "D of E = D q²(1 − βq² ...), mean over the directions"
        result.add(name, mean, unit, words, max(float(scatter), weight.sum() ** -0.5))
    else:
        name, unit, factor = ("spin_wave_velocity" if spins else "sound_velocity"), "m/s", 100.0 / HBAR_MEV
    result.add("direction", directions, "text", "from Γ", axes=("direction",))
    words = f"of the lowest branch, E = {'D q²' if power == 2 else 'ħ c q'}(1 − βq²) at q up to half of the zone"
    result.add(f"{name}_along", values[:, 0] * factor, unit, words, values[:, 1] * factor, ("direction",))


def _expand(q, energy, error, power) -> tuple[float, float]:
    """a of E = a q^n (1 − β q² + γ q⁴) and its error; γ with four wave vectors or more.

    The error has a share for the term that is left out, a tenth of what the last one gives at the largest q, to the power of its
    order: for a cosine that is what it makes.
    """
    error = np.maximum(error, 1.0e-4 * energy)
    terms = 2 if len(q) < 4 else 3
    design = np.stack([q ** (power + 2 * k) for k in range(terms)], axis=1) / error[:, None]
    solution, *_ = np.linalg.lstsq(design, energy / error, rcond=None)
    residual = design @ solution - energy / error
    freedom = len(q) - terms
    spread = max(1.0, float(residual @ residual) / freedom) if freedom > 0 else 1.0
    statistical = np.sqrt(np.linalg.inv(design.T @ design)[0, 0] * spread)
    omitted = 0.1 * abs(solution[0]) * abs(solution[1] / solution[0] * q.max() ** 2) ** terms
    return float(solution[0]), float(np.hypot(statistical, omitted))


def _order(part: Trajectory) -> float:
    """|ΣS|/Σ|S| in the middle of the window."""
    spins = part.spins[len(part) // 2]
    return float(np.linalg.norm(spins.sum(axis=0)) / np.linalg.norm(spins, axis=1).sum())
