"""Curie or Néel temperature from runs at several temperatures: crossing of Binder cumulants, or fits where there is one size only.

    several sizes   U = 1 − ⟨m⁴⟩/(3⟨m²⟩²) of two sizes cross at T_c (``binder``); of more than two, the two largest count
    one size        U = U* = 0.620, which isotropic magnets in periodic cubes have at T_c; the fit of m(T) = (1 − T/T_c)^β;
                    the peak of the susceptibility: all shifted by the finite size L = N^⅓, by about T_c L^(−1/ν), the first
                    by T_c L^(−1/ν−ω)

m is the magnetisation, or the staggered one of an antiferromagnet. Runs are told apart by their number of magnetic atoms and the
temperature of their baths; seeds of one point are taken together, and a run of parallel tempering has all temperatures
itself. Errors are those of the bootstrap of blocks of rows, which are longer than correlations.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import least_squares

from spinmd.analysis.binder import HEISENBERG, binder_crossing
from spinmd.analysis.conditions import bath_temperature, has_bath, magnetic_count, mean_moment
from spinmd.analysis.figures import COLOURS, label
from spinmd.analysis.magnetisation import AXES, ladder_rows, order_blocks, staggered_rows
from spinmd.analysis.reading import EQUILIBRIUM, Window
from spinmd.analysis.results import Result, with_error
from spinmd.analysis.statistics import Blocks, Estimate, too_short
from spinmd.analysis.sublattices import pattern_of, starts_antiferromagnetic
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory
from spinmd.units import BOHR_MAGNETON, BOLTZMANN

ORDERS = ("magnetisation", "staggered")
NU = 0.711  # of the Heisenberg model: Campostrini et al., Phys. Rev. B 65, 144520 (2002)
METHODS = {  # of one size, the best first
    "universal": "where the Binder cumulant is 0.620",
    "fit": "T_c of m(T) = (1 − T/T_c)^β",
    "peak": "of the susceptibility's peak",
}
ANISOTROPIC = {"anisotropy", "cubic-anisotropy", "zeeman", "dipole", "dmi", "tensor-exchange"}
NEAR = 0.05  # of T_c: temperatures beside the crossing that parabolas may be fitted to
FEWEST = 5  # temperatures for them, however far
ORDERED = 0.35  # of the full moment: below that m(T) of a finite system is no power law
SAME_KELVIN = 1.0e-6
FITS = 100  # bootstrap samples that are fitted


@dataclass
class Curve:
    """All runs of one size: temperatures (T,) K ascending, and of each the blocks of its rows and the lengths |m| of its runs."""

    count: int
    moment: float
    runs: dict[float, list[np.ndarray]] = field(default_factory=dict)  # K -> (rows, components) µB of each run
    joint: bool = False
    heisenberg: bool = False  # isotropic, in a periodic cube
    blocks: list[Blocks] = field(default_factory=list)

    @property
    def temperatures(self) -> np.ndarray:
        return np.array(sorted(self.runs))

    def lengths(self, chosen: np.ndarray):
        """|m| at these temperatures as ``binder_crossing`` takes it."""
        runs = [[np.linalg.norm(run, axis=1) for run in self.runs[kelvin]] for kelvin in chosen]
        return np.stack([run[0] for run in runs], axis=1) if self.joint else runs

    def samples(self, function) -> np.ndarray:
        """(samples, T) of a function (means, K) of the bootstrap samples."""
        pairs = zip(self.blocks, self.temperatures, strict=True)
        return np.stack([function(one.samples, kelvin) for one, kelvin in pairs], axis=1)

    def values(self, function) -> np.ndarray:
        """(T,) of the data."""
        pairs = zip(self.blocks, self.temperatures, strict=True)
        return np.array([float(function(one.mean, kelvin)) for one, kelvin in pairs])

    def reduced(self, mean, kelvin):
        return mean[..., 0] / self.moment

    def susceptibility(self, mean, kelvin):
        return self.count * BOHR_MAGNETON / (BOLTZMANN * kelvin) * np.maximum(mean[..., 1] - mean[..., 0] ** 2, 0.0)

    def cumulant(self, mean, kelvin):
        return 1.0 - mean[..., 2] / (3.0 * mean[..., 1] ** 2)


def critical_temperature(
    trajectories: Sequence[Trajectory], window: Window = EQUILIBRIUM, *, order: str | None = None, wavevector=None,
    corrections: bool = False, progress: bool = False,
) -> Result:  # fmt: skip
    """T_c from runs at several temperatures of one size or of several.

    order        "magnetisation" or "staggered" (from frames); None: staggered where the deck starts antiferromagnetic
    wavevector   of the staggered order, in units of the reciprocal vectors of the deck's unit cell; None: signs of the start
    corrections  take the leading correction to scaling of Heisenberg magnets out of the crossing (``binder_crossing``)

    Quantities: critical_temperature K; of several sizes cumulant (at the crossing) and crossing_N1_N2 K for each pair of
    neighbouring sizes; universal_temperature, fit_temperature and peak_temperature K and fit_exponent of the largest size,
    where temperatures reach far enough; and the table over "point": size (magnetic atoms), temperature K, magnetisation µB,
    reduced, susceptibility µB/T, binder. Raises InputError for too few temperatures, runs without a bath, and runs that
    differ in more than size and temperature.
    """
    if order not in (None, *ORDERS):
        raise InputError(f"expected {' or '.join(ORDERS)}, got {order!r}", "--order")
    if order is None:
        order = "staggered" if wavevector is not None or starts_antiferromagnetic(trajectories[0]) else "magnetisation"
    settings = {
        **window.settings(), "order": order, "corrections": corrections,
        "wavevector": None if wavevector is None else [float(x) for x in wavevector],
    }  # fmt: skip
    result = Result("curie", settings=settings, sources=[str(one.path) for one in trajectories])
    curves = _collected(trajectories, window, order, wavevector, progress)
    fewest = min(len(curve.runs) for curve in curves)
    if fewest < 3:
        found = sorted({kelvin for curve in curves for kelvin in curve.runs})
        words = ", ".join(f"{kelvin:g}" for kelvin in found[:4])
        raise InputError(
            f"a critical temperature needs runs at three temperatures or more of each size, and there are {fewest} ({words} "
            "K); make them with spinmd sweep --over integrator.temperature=...",
            "curie",
        )
    for curve in curves:
        curve.blocks = [order_blocks(curve.runs[kelvin], seed=k) for k, kelvin in enumerate(curve.temperatures)]
    largest = curves[-1]
    if len(curves) > 1:
        _add_crossings(result, curves, corrections)
    else:
        result.notes.append(
            "one size only: its finite size shifts the critical temperature; a second size, for example structure.supercell twice "
            "as large, gives the crossing of Binder cumulants, which hardly depends on it"
        )
    _add_fits(result, largest, only=len(curves) == 1)
    _add_points(result, curves)
    worst = max((one for curve in curves for one in curve.blocks), key=lambda one: one.tau / one.rows)
    note = too_short(worst.rows, worst.tau, "rows" if order == "magnetisation" else "frames")
    if note is not None:
        result.notes.append(note)
    return result


# ---------------------------------------------------------------------- reading


def _collected(trajectories, window, order, wavevector, progress) -> list[Curve]:
    """Curves of the sizes, the smallest first."""
    curves: dict[int, Curve] = {}
    first = trajectories[0].settings.get("potential")
    for one in trajectories:
        if one.settings.get("potential") != first:
            raise InputError(
                f"{one.path.name} has other potentials than {trajectories[0].path.name}; runs may differ in temperature, "
                "supercell and seed only",
                "curie",
            )
        count = magnetic_count(one)
        curve = curves.setdefault(count, Curve(count, mean_moment(one), heisenberg=_heisenberg(one)))
        ladder = ladder_rows(one, window.chosen_rows(one))
        if ladder is not None:
            if order == "staggered":
                raise InputError(
                    "parallel tempering keeps the magnetisation of its temperatures, not their staggered one; run "
                    "monte-carlo at each temperature with spinmd sweep",
                    str(one.path),
                )
            curve.joint = not curve.runs
            for k, kelvin in enumerate(ladder[0]):
                curve.runs.setdefault(float(kelvin), []).append(ladder[1][:, k])
            continue
        kelvin = bath_temperature(one) if has_bath(one) else None
        if kelvin is None:
            raise InputError(
                "has no bath of one constant temperature in its last stage; a critical temperature needs runs in equilibrium, at "
                "several temperatures",
                str(one.path),
            )
        near = [known for known in curve.runs if abs(known - kelvin) <= SAME_KELVIN * kelvin]
        curve.joint = False
        curve.runs.setdefault(near[0] if near else kelvin, []).append(_rows(one, window, order, wavevector, progress))
    return [curves[count] for count in sorted(curves)]


def _heisenberg(trajectory: Trajectory) -> bool:
    """Whether nothing in the deck prefers a direction of the spins, and the cell is a periodic cube."""
    kinds = {str(term.get("kind")) for term in trajectory.settings.get("potential", [])}
    cell = trajectory.site_cell
    lengths = np.linalg.norm(cell, axis=1)
    overlaps = cell @ cell.T / np.outer(lengths, lengths) - np.eye(3)
    cube = np.ptp(lengths) < 0.01 * lengths.max() and np.abs(overlaps).max() < 0.01
    return bool(trajectory.pbc.all() and cube and not kinds & ANISOTROPIC)


def _rows(trajectory, window, order, wavevector, progress) -> np.ndarray:
    """(rows, components) µB of the order parameter."""
    if order == "magnetisation":
        rows = window.rows(trajectory)
        return np.stack([rows[f"magnetisation_{axis}"] for axis in AXES], axis=1)
    pattern = pattern_of(trajectory, wavevector)
    if pattern is None:
        raise InputError(
            "its deck does not start antiferromagnetic; give the wave vector of the order, for example --wavevector 0.5,0.5,0.5",
            str(trajectory.path),
        )
    window.frames(trajectory, fewest=10)
    return staggered_rows(trajectory, window, pattern, progress)


# ---------------------------------------------------------------------- several sizes


def _add_crossings(result: Result, curves: list[Curve], corrections: bool) -> None:
    found = [_crossing(small, large, corrections) for small, large in zip(curves[:-1], curves[1:], strict=True)]
    crossing, used = found[-1]
    sizes = f"{curves[-2].count} and {curves[-1].count} magnetic atoms"
    words = f"crossing of the Binder cumulants of {sizes}"
    result.add("critical_temperature", crossing.temperature.value, "K", words, crossing.temperature.error)
    result.add("cumulant", crossing.cumulant.value, "1", "at the crossing, of the larger", crossing.cumulant.error)
    if len(found) > 1:
        for (one, _), small, large in zip(found, curves[:-1], curves[1:], strict=True):
            name = f"crossing_{small.count}_{large.count}"
            result.add(name, one.temperature.value, "K", "of two neighbouring sizes", one.temperature.error)
    result.settings["fitted"] = [float(kelvin) for kelvin in used]
    spread = max(abs(used - crossing.temperature.value)) / crossing.temperature.value
    if spread > 1.5 * NEAR:
        result.notes.append(
            f"the temperatures of the fit are up to {spread:.0%} from the crossing, where parabolas may bend it: add temperatures "
            f"within {NEAR:.0%} of {crossing.temperature.value:.4g} K"
        )


def _crossing(small: Curve, large: Curve, corrections: bool) -> tuple:
    """The crossing, and the temperatures that it is from."""
    common = np.array([k for k in small.temperatures if np.abs(large.temperatures - k).min() <= SAME_KELVIN * k])
    if len(common) < 3:
        raise InputError(
            f"sizes of {small.count} and {large.count} magnetic atoms have {len(common)} temperatures in common, and need "
            "three; sweep both over the same",
            "curie",
        )
    used = _near_crossing(common, small, large)
    sizes = (small.count ** (1.0 / 3.0), large.count ** (1.0 / 3.0)) if corrections else None
    keys = [_matching(curve, used) for curve in (small, large)]
    rows = [curve.lengths(key) for curve, key in zip((small, large), keys, strict=True)]
    if len(used) > 3:
        # parabolas through noisy points may cross twice or not at all, where straight lines still cross once
        with contextlib.suppress(InputError):
            return binder_crossing(used, *rows, degree=2, sizes=sizes), used
    return binder_crossing(used, *rows, degree=1, sizes=sizes), used


def _matching(curve: Curve, kelvins: np.ndarray) -> np.ndarray:
    return np.array([curve.temperatures[np.abs(curve.temperatures - kelvin).argmin()] for kelvin in kelvins])


def _near_crossing(common: np.ndarray, small: Curve, large: Curve) -> np.ndarray:
    """Temperatures within ``NEAR`` of where U_large − U_small falls through zero, at least ``FEWEST``.

    The place is the one that divides positive from negative differences best, each in units of its error but at most three.
    """
    if len(common) <= FEWEST:
        return common
    cumulants, variances = [], []
    for curve in (small, large):
        where = [int(np.abs(curve.temperatures - kelvin).argmin()) for kelvin in common]
        cumulants.append(curve.values(curve.cumulant)[where])
        variances.append(curve.samples(curve.cumulant)[:, where].var(axis=0))
    difference = (cumulants[1] - cumulants[0]) / np.sqrt(sum(variances) + 1.0e-12)
    score = np.clip(difference, -3.0, 3.0)
    divided = np.concatenate([[0.0], np.cumsum(score)])
    k = int(np.argmax(divided))  # the first k temperatures lie below T_c
    k = min(max(k, 1), len(common) - 1)
    below, above = difference[k - 1], difference[k]
    share = below / (below - above) if below > 0.0 > above else 0.5
    centre = common[k - 1] + share * (common[k] - common[k - 1])
    near = np.abs(common / centre - 1.0) <= NEAR
    if np.count_nonzero(near) < FEWEST or not ((common[near] < centre).any() and (common[near] > centre).any()):
        nearest = np.argsort(np.abs(common - centre), kind="stable")[:FEWEST]
        near = np.zeros(len(common), dtype=bool)
        near[nearest] = True
        near[[k - 1, k]] = True
    return common[near]


# ---------------------------------------------------------------------- one size


def _add_fits(result: Result, curve: Curve, only: bool) -> None:
    """Fit of m(T), peak of the susceptibility, and where U is the universal one; InputError if there is none and nothing else."""
    found = {"universal": _universal(curve) if curve.heisenberg else None, "peak": _peak(curve)}
    fit = _fit_order(curve)
    found["fit"] = None if fit is None else fit[0]
    for name, words in METHODS.items():
        if found[name] is not None:
            value, error = found[name].value, found[name].error
            result.add(f"{name}_temperature", value, "K", f"{words}, {curve.count} magnetic atoms", error)
    if fit is not None:
        result.add(
            "fit_exponent", fit[1].value, "1", "β of the fit: of the whole curve, not the critical one", fit[1].error
        )
    if not only:
        return
    name = next((name for name in METHODS if found[name] is not None), None)
    if name is None:
        values = curve.values(curve.reduced)
        raise InputError(
            f"no critical temperature: between {curve.temperatures[0]:g} and {curve.temperatures[-1]:g} K the order falls from "
            f"{values[0]:.2g} to {values[-1]:.2g} of the full moment, and the susceptibility has no peak inside; choose "
            "temperatures on both sides",
            "curie",
        )
    best = found[name]
    size = curve.count ** (1.0 / 3.0)
    shift = best.value * size ** -(1.0 / NU + (HEISENBERG[1] if name == "universal" else 0.0))
    words = f"{METHODS[name]}, of one size; the error has the shift by the finite size that is usual, {shift:.2g} K"
    result.add("critical_temperature", best.value, "K", words, float(np.hypot(best.error, shift)))


def _universal(curve: Curve) -> Estimate | None:
    """Where U falls through the value U* that all Heisenberg magnets in periodic cubes have at T_c; None where it does not."""
    kelvin, values = curve.temperatures, curve.values(curve.cumulant)
    above = values > HEISENBERG[0]
    k = int(np.argmin(above))  # the first temperature above T_c
    if above.all() or k == 0:
        return None
    near = slice(k - 1, k + 1)

    def passed(cumulants: np.ndarray) -> np.ndarray:
        high, low = cumulants[..., k - 1], cumulants[..., k]
        return kelvin[k - 1] + (high - HEISENBERG[0]) / np.maximum(high - low, 1.0e-12) * (kelvin[k] - kelvin[k - 1])

    samples = np.clip(
        passed(curve.samples(curve.cumulant)), *(kelvin[near] + np.array([-1.0, 1.0]) * np.ptp(kelvin[near]))
    )
    return Estimate(float(passed(values)), float(np.std(samples, ddof=1)))


def _fit_order(curve: Curve) -> tuple[Estimate, Estimate] | None:
    """T_c and β of m = (1 − T/T_c)^β from the ordered temperatures; None where these are fewer than three or the order is lost
    nowhere."""
    kelvin, values = curve.temperatures, curve.values(curve.reduced)
    samples = curve.samples(curve.reduced)
    errors = np.maximum(samples.std(axis=0), 0.005)  # the law holds for a whole curve to about a per cent
    ordered = values >= max(ORDERED, 4.0 / np.sqrt(curve.count))
    if ordered.all():
        return None
    ordered &= np.arange(len(kelvin)) < int(np.argmin(ordered))
    if np.count_nonzero(ordered) < 3 or not (values[ordered][-1] < 0.9 * values[0] or values[ordered][-1] < 0.75):
        return None
    x, lowest = kelvin[ordered], kelvin[ordered][-1]
    beyond = kelvin[~ordered][0]

    def fitted(m: np.ndarray) -> np.ndarray:
        start = [0.5 * (lowest + beyond) / lowest, 0.36]
        limits = ([1.0 + 1.0e-6, 0.05], [3.0, 1.5])
        start[0] = min(max(start[0], 1.001), 2.9)
        law = least_squares(lambda p: ((1.0 - x / (p[0] * lowest)) ** p[1] - m) / errors[ordered], start, bounds=limits)
        return np.array([law.x[0] * lowest, law.x[1]])

    best = fitted(values[ordered])
    spread = np.std([fitted(sample[ordered]) for sample in samples[:FITS]], axis=0, ddof=1)
    return Estimate(float(best[0]), float(spread[0])), Estimate(float(best[1]), float(spread[1]))


def _peak(curve: Curve) -> Estimate | None:
    """Vertex of the parabola through ln χ at the largest χ and its neighbours; None where it is at an end."""
    kelvin, values = curve.temperatures, curve.values(curve.susceptibility)
    top = int(np.argmax(values))
    if not 0 < top < len(kelvin) - 1 or not (values > 0.0).all():
        return None

    def vertex(chi: np.ndarray) -> float:
        k = min(max(int(np.argmax(chi)), 1), len(kelvin) - 2)
        near = slice(k - 1, k + 2)
        a, b, _ = np.polyfit(kelvin[near] - kelvin[k], np.log(np.maximum(chi[near], 1.0e-300)), 2)
        return float(np.clip(kelvin[k] - 0.5 * b / a, kelvin[k - 1], kelvin[k + 1])) if a < 0.0 else float(kelvin[k])

    samples = [vertex(chi) for chi in curve.samples(curve.susceptibility)]
    return Estimate(vertex(values), float(np.std(samples, ddof=1)))


# ---------------------------------------------------------------------- table and figure


def _add_points(result: Result, curves: list[Curve]) -> None:
    axes = ("point",)
    sizes = np.concatenate([np.full(len(curve.runs), curve.count) for curve in curves])
    result.add("size", sizes, "1", "magnetic atoms", axes=axes)
    result.add("temperature", np.concatenate([curve.temperatures for curve in curves]), "K", "of the baths", axes=axes)
    prefix = "staggered " if result.settings["order"] == "staggered" else ""
    for name, unit, meaning, scale in (
        ("magnetisation", "muB", f"{prefix}⟨|m|⟩ per magnetic atom", True),
        ("reduced", "1", "in units of the mean reference moment", False),
        ("susceptibility", "muB/T", f"{prefix}of the length, per magnetic atom", False),
        ("binder", "1", "cumulant 1 − ⟨m⁴⟩/(3⟨m²⟩²)", False),
    ):
        values, errors = [], []
        for curve in curves:
            function = getattr(curve, {"magnetisation": "reduced", "binder": "cumulant"}.get(name, name))
            factor = curve.moment if scale else 1.0
            values.append(factor * curve.values(function))
            errors.append(factor * curve.samples(function).std(axis=0, ddof=1))
        result.add(name, np.concatenate(values), unit, meaning, np.concatenate(errors), axes)


def _zoom(axes, result: Result) -> None:
    """Show the cumulants where they cross: at the temperatures of the fit."""
    fitted = result.settings["fitted"]
    spare = 0.15 * (max(fitted) - min(fitted))
    low, high = min(fitted) - spare, max(fitted) + spare
    kelvin, one = result["temperature"], result.quantity("binder")
    inside = (kelvin >= low) & (kelvin <= high)
    values, errors = one.values[inside], one.error[inside]
    margin = 0.05 * float(np.ptp(values)) + 1.0e-6
    axes.set(xlim=(low, high), ylim=((values - errors).min() - margin, (values + errors).max() + margin))


def draw_curie(result: Result, figure) -> None:
    """Order, susceptibility and Binder cumulant of all sizes against temperature, with the critical temperature."""
    panels = figure.subplots(1, 3)
    order = "staggered " if result.settings["order"] == "staggered" else ""
    names = ("reduced", "susceptibility", "binder")
    words = (f"{order}magnetisation / moment", f"{order}susceptibility (µB/T per atom)", "Binder cumulant")
    kelvin, sizes = result["temperature"], result["size"]
    value, error = result["critical_temperature"], result.error("critical_temperature")
    for axes, name, text in zip(panels, names, words, strict=True):
        one = result.quantity(name)
        for k, size in enumerate(np.unique(sizes)):
            own = sizes == size
            style = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1, "color": COLOURS[k % len(COLOURS)]}
            axes.errorbar(kelvin[own], one.values[own], one.error[own], label=f"{size} atoms", **style)
        axes.axvline(value, color="0.35", linewidth=1)
        axes.axvspan(value - error, value + error, color="0.35", alpha=0.2, linewidth=0)
        axes.set(xlabel=label("temperature", "K"), ylabel=text)
    if "fit_exponent" in result and len(np.unique(sizes)) == 1:
        end = result["fit_temperature"]
        grid = np.linspace(kelvin.min(), end, 300)
        law = (1.0 - grid / end) ** result["fit_exponent"]
        panels[0].plot(grid, law, color="0.2", linestyle="--", linewidth=1.2, zorder=0, label="(1 − T/T$_c$)$^β$")
    if "fitted" in result.settings:
        _zoom(panels[2], result)
    panels[0].set_ylim(0, None)
    panels[1].set_ylim(0, None)
    panels[0].legend()
    symbol = "T$_N$" if order else "T$_c$"
    figure.suptitle(f"{symbol} = ({with_error(value, error)}) K")
