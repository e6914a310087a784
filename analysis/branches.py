"""Branches of a dynamical structure factor: positions and widths of its peaks, spin-wave stiffness and velocities.

A peak at E₀ of half width Γ is a Lorentzian; a segment of finite length shows it convolved with the window. The fit is made of
what the window makes of it,

    m(E) = A Δt/(2πħ) [1 + 2 Σ_{τ>0} r(τ) e^{−Γτ/ħ} cos((E − E₀)τ/ħ)] + b,     r(τ) the autocorrelation of the window,

so that positions are finer than the spacing of energies, and widths are those of the line without the window's. Damped harmonic
oscillators of Γ ≪ E₀ are Lorentzians.

Near Γ a ferromagnet has E = D q² (1 − β q²), an antiferromagnet and a lattice E² = (ħ c q)² (1 − β q²), with a gap
E = Δ + D q² (1 − β q²) and E² = Δ² + (ħ c q)² (1 − β q²).
"""

import numpy as np

from spinmd.analysis.brillouin import BrillouinPath
from spinmd.analysis.conditions import field_applied
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
    centre = size < 1.0e-9
    known = np.isfinite(energy) & (error < 0.2 * energy)
    usable = ~centre & (size <= NEAR * boundary * (1.0 + 1.0e-9)) & known
    gap = _gap(result, part, energy, centre & known, usable, power == 2) if spins else None
    if gap == NO_LAW:
        return
    fewest = 3 if gap == UNKNOWN else 2
    directions, values, gaps = [], [], []
    for k, (start, end) in enumerate(along.ends):
        if min(np.linalg.norm(start), np.linalg.norm(end)) < 1.0e-9:
            chosen = usable & (along.segment == k)
            names = along.names[k] if np.linalg.norm(start) < 1.0e-9 else along.names[k][::-1]
            directions.append("-".join(names))
            found = [(np.nan, np.nan)] * 2
            if np.count_nonzero(chosen) >= fewest:
                chosen = chosen | (centre & known) if gap == SEEN else chosen
                found = _expand(size[chosen], energy[chosen], error[chosen], power, gap is not None)
            values.append(found[0])
            gaps.append(found[1])
    values, gaps = np.array(values).reshape(-1, 2), np.array(gaps).reshape(-1, 2)
    good = np.isfinite(values[:, 0])
    if not good.any():
        result.notes.append(
            f"too few wave vectors near Γ for a stiffness or a velocity: {fewest} with a peak are needed in the inner half of "
            "the zone, in one direction"
        )
        return
    if power == 2:
        name, unit, factor = "stiffness", "meV Angstrom^2", 1.0
        words = "D of E = D q²(1 − βq² ...), mean over the directions"
        words = words if gap is None else words.replace("D q²", "gap + D q²")
        result.add(name, *_mean(values[good], unit, words))
    else:
        name, unit, factor = ("spin_wave_velocity" if spins else "sound_velocity"), "m/s", 100.0 / HBAR_MEV
    result.add("direction", directions, "text", "from Γ", axes=("direction",))
    law = ("E = gap + D q²(1 − βq²)" if gap else "E = D q²(1 − βq²)") if power == 2 else (
        "E² = gap² + (ħ c q)²(1 − βq²)" if gap else "E² = (ħ c q)²(1 − βq²)"
    )  # fmt: skip
    words = f"of the lowest branch, {law} at q up to half of the zone"
    result.add(f"{name}_along", values[:, 0] * factor, unit, words, values[:, 1] * factor, ("direction",))
    if gap is not None:
        if gap == SEEN:
            gaps = np.array([[energy[centre & known].min(), error[centre & known].max()]])
        gaps = gaps[np.isfinite(gaps[:, 0])]
        if len(gaps):
            result.add("gap", *_mean(gaps, "meV", "of the lowest branch at Γ"))


SEEN, UNKNOWN, NO_LAW = "seen", "unknown", "no law"


def _gap(result: Result, part: Trajectory, energy, centre, usable, ferromagnet: bool) -> str | None:
    """Whether the lowest branch begins at an energy above zero: SEEN at Γ, UNKNOWN where it may and no peak says so, or None.

    What is conserved has no peak at Γ; a peak above those around it is another branch's, as one element of a ferrimagnet shows.
    """
    if not usable.any():
        return None
    if centre.any() and energy[centre].min() < energy[usable].min():
        return SEEN
    if not field_applied(part):
        return None
    if centre.any():
        result.notes.append("the lowest peaks are not at Γ but beside it, so that there is no stiffness or velocity")
        return NO_LAW
    if ferromagnet and _easy_plane(part):
        result.notes.append("waves of an easy plane begin neither as q² nor at a gap, so that there is no stiffness")
        return NO_LAW
    result.notes.append(
        "the deck has a field or an anisotropy, and no peak stands out at Γ: the gap there comes from the fit"
    )
    return UNKNOWN


def _easy_plane(part: Trajectory) -> bool:
    """Whether the deck has an anisotropy with K < 0, of all atoms or of an element."""
    for term in part.settings.get("potential", []):
        strength = term.get("parameters", {}).get("K") if term.get("kind") == "anisotropy" else None
        values = strength.values() if isinstance(strength, dict) else [strength]
        if any(str(one).strip().startswith("-") for one in values):
            return True
    return False


def _mean(found: np.ndarray, unit: str, words: str) -> tuple[float, str, str, float]:
    """Weighted mean of (n, 2) values and errors, to be added to a result."""
    weight = found[:, 1] ** -2.0
    mean = float(found[:, 0] @ weight / weight.sum())
    scatter = np.sqrt(((found[:, 0] - mean) ** 2) @ weight / weight.sum() / max(len(found) - 1, 1))
    return mean, unit, words, max(float(scatter), float(weight.sum() ** -0.5))


def _expand(q, energy, error, power, gapped) -> list[tuple[float, float]]:
    """[(D, error), (gap, error)] of E = gap + D q² (1 − β q² + γ q⁴), or of power 1 [(c, error), (gap, error)] of
    E² = gap² + c² q² (1 − ...); no gap unless ``gapped``.

    The error has a share for what is left out, half of what the last term that is not changes. Of two and three terms, as far as
    there are wave vectors for them, those with the smaller error count.
    """
    error = np.maximum(error, 1.0e-4 * energy)
    if power == 1:
        energy, error = energy**2, 2.0 * energy * error
    unit = q.max()  # 1/Å, in which powers of q are no small numbers
    constant = int(gapped)

    def fit(terms):
        design = np.stack([(q / unit) ** (2 * k) for k in range(1 - constant, terms + 1)], axis=1) / error[:, None]
        solution, *_ = np.linalg.lstsq(design, energy / error, rcond=None)
        residual = design @ solution - energy / error
        freedom = len(q) - len(solution)
        spread = max(1.0, float(residual @ residual) / freedom) if freedom > 0 else 1.0
        return solution, np.diag(np.linalg.pinv(design.T @ design)) * spread

    best = None
    for terms in range(2, min(len(q) - constant, 3) + 1):
        (values, variances), (lower, _) = fit(terms), fit(terms - 1)
        errors = np.sqrt(variances[: len(lower)] + 0.25 * (values[: len(lower)] - lower) ** 2)
        if best is None or errors[constant] < best[constant][1]:
            best = list(zip(values.tolist(), errors.tolist(), strict=False))
    slope = tuple(x / unit**2 for x in best[constant])
    found = [slope, best[0] if gapped else (np.nan, np.nan)]
    return found if power == 2 else [_root(*one) for one in found]


def _root(value: float, error: float) -> tuple[float, float]:
    """√value with its error; NaN where it is below zero by more than its error."""
    if not value > -error:
        return np.nan, np.nan
    return np.sqrt(max(value, 0.0)), error / (2.0 * np.sqrt(max(value, error)))


def _order(part: Trajectory) -> float:
    """|ΣS|/Σ|S| in the middle of the window."""
    spins = part.spins[len(part) // 2]
    return float(np.linalg.norm(spins.sum(axis=0)) / np.linalg.norm(spins, axis=1).sum())
