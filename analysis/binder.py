"""Critical temperatures from the Binder cumulant of the magnetisation: cumulants and crossings, with errors.

    U = 1 − ⟨m⁴⟩/(3 ⟨m²⟩²)

with m the length of the mean moment: Binder, Z. Phys. B 43, 119 (1981). For the Heisenberg model U is 2/3 in the ordered phase
and 4/9 in the disordered one; at T_c it hardly depends on the size, so that the curves U(T) of two sizes cross there.

Rows of a run are correlated. Errors come from the bootstrap of blocks (Künsch, Ann. Stat. 17, 1217 (1989)) which are longer than
the time over which m² is correlated. A block takes the rows of all temperatures together, since parallel tempering moves
replicas from one to another.
"""

import math
from dataclasses import dataclass

import numpy as np

from spinmd.errors import InputError

BLOCK_TIMES = 8.0  # length of a block in correlation times
FEWEST_BLOCKS = 10
WINDOW = 5.0  # Sokal's: sum correlations up to this many correlation times
RESAMPLES = 400
# U* and ω of O(3) in a periodic cube: Hasenbusch, J. Phys. A 34, 8221 (2001); Campostrini et al., Phys. Rev. B 65, 144520 (2002)
HEISENBERG = (0.6202, 0.773)


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.6g} ± {self.error:.2g}"


@dataclass(frozen=True)
class Crossing:
    """Where the curves of two sizes cross: the temperature, K (or in the unit that was given), and the cumulant of the larger."""

    temperature: Estimate
    cumulant: Estimate


def correlation_time(values) -> float:
    """Integrated correlation time τ = ½ + Σ_{t≥1} ρ(t) of (rows,) values, in rows; ½ where neighbours are independent.

    The sum ends at the first t ≥ 5 τ(t): Sokal, in Functional Integration (Plenum, 1997), p. 131. NaN for fewer than two rows
    or values that do not change.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    deviations = values - values.mean() if n else values
    if n < 2 or np.abs(deviations).max() <= 1.0e-12 * np.abs(values).max():
        return math.nan
    power = np.abs(np.fft.rfft(deviations, 2 * n)) ** 2
    correlation = np.fft.irfft(power, 2 * n)[:n]
    times = np.cumsum(correlation / correlation[0]) - 0.5
    window = np.flatnonzero(np.arange(n) >= WINDOW * times)
    return max(float(times[window[0]] if len(window) else times[-1]), 0.5)


def binder_cumulant(magnetisation, seed: int = 0) -> list[Estimate]:
    """U at each temperature with its error; ``magnetisation`` (rows, temperatures) or (rows,), the length of the mean moment.

    Leave the rows before equilibrium out. Raises InputError for runs too short for an error.
    """
    samples = _Resampled(magnetisation, seed)
    errors = samples.cumulants.std(axis=0, ddof=1)
    return [Estimate(float(u), float(error)) for u, error in zip(samples.cumulant, errors, strict=True)]


def binder_crossing(
    temperatures, small, large, degree: int = 2, seed: int = 0, sizes: tuple[float, float] | None = None,
    corrections: tuple[float, float] = HEISENBERG,
) -> Crossing:  # fmt: skip
    """T_c from the runs of two sizes at the same temperatures.

    temperatures  (temperatures,), any order
    small, large  (rows, temperatures), the length of the mean moment of each size in equilibrium; rows may differ in number
    degree        of the polynomials in T that are fitted to the two curves
    sizes         edges L of the two systems, in any unit. If they are given, the leading correction to scaling is taken out:
                  at T_c, U = U* + c L^−ω, so that the curves of (U − U*) L^ω cross there, whatever c
    corrections   U* and ω of the universality class, for periodic cubes

    The difference of the two polynomials is solved for zero, for the data and for each of their bootstrap samples. Raises
    InputError where the curves do not cross once within the temperatures, and for runs too short for an error.
    """
    temperatures = np.asarray(temperatures, dtype=np.float64)
    curves = [_Resampled(values, seed + k) for k, values in enumerate((small, large))]
    for curve in curves:
        if curve.cumulant.shape != temperatures.shape:
            raise InputError(
                f"expected magnetisations at {len(temperatures)} temperatures, got {len(curve.cumulant)}",
                "binder_crossing",
            )
    if len(temperatures) < degree + 1:
        raise InputError(
            f"a polynomial of degree {degree} needs {degree + 1} temperatures or more, got {len(temperatures)}",
            "degree",
        )
    centre, width = temperatures.mean(), np.ptp(temperatures) / 2.0
    if not width > 0.0:
        raise InputError("the temperatures are all the same", "temperatures")
    x = (temperatures - centre) / width
    if sizes is not None and not 0.0 < sizes[0] < sizes[1]:
        raise InputError(f"expected two edges, the smaller one first, got {sizes}", "sizes")
    star, omega = corrections if sizes is not None else (0.0, 0.0)
    scales = [size**omega for size in (sizes or (1.0, 1.0))]
    fits = [_Fit(x, curve, degree, star, scale) for curve, scale in zip(curves, scales, strict=True)]
    crossed = _falling_zero(fits[1].best - fits[0].best)
    if crossed is None:
        raise InputError(
            f"the cumulants of the two sizes do not cross once between {temperatures.min():g} and {temperatures.max():g}; choose "
            "temperatures on both sides of the critical one, or run longer",
            "temperatures",
        )
    points = [(_falling_zero(b - a), b) for a, b in zip(fits[0].samples, fits[1].samples, strict=True)]
    good = np.array([(zero, np.polyval(b, zero)) for zero, b in points if zero is not None])
    if len(good) < 0.9 * len(points):
        raise InputError(
            f"the crossing is lost in {len(points) - len(good)} of {len(points)} bootstrap samples; run longer, or spread the "
            "temperatures",
            "temperatures",
        )
    spread = good.std(axis=0, ddof=1)
    return Crossing(
        Estimate(float(centre + width * crossed), float(width * spread[0])),
        Estimate(star + float(np.polyval(fits[1].best, crossed)) / scales[1], float(spread[1]) / scales[1]),
    )


class _Resampled:
    """cumulant (temperatures,) of the data, and cumulants (samples, temperatures) of bootstrap samples of its blocks."""

    def __init__(self, magnetisation, seed: int):
        values = np.asarray(magnetisation, dtype=np.float64)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or not len(values) or not np.isfinite(values).all() or (values < 0.0).any():
            raise InputError(
                "expected lengths of the magnetisation, (rows, temperatures), finite and not negative", "magnetisation"
            )
        if not values.any(axis=0).all():
            raise InputError("the magnetisation is zero in all rows", "magnetisation")
        square = values**2
        times = [correlation_time(column) for column in square.T]
        length = math.ceil(BLOCK_TIMES * max([time for time in times if time == time], default=0.5))
        count = len(square) // length
        if count < FEWEST_BLOCKS:
            raise InputError(
                f"{len(square)} rows are too few for an error, with correlations over {length / BLOCK_TIMES:.0f} rows; run "
                f"{FEWEST_BLOCKS * length} or more",
                "magnetisation",
            )
        kept = square[len(square) - count * length :].reshape(count, length, -1)
        second, fourth = kept.mean(axis=1), (kept**2).mean(axis=1)
        self.cumulant = _cumulant(second.mean(axis=0), fourth.mean(axis=0))
        drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
        self.cumulants = _cumulant(second[drawn].mean(axis=1), fourth[drawn].mean(axis=1))


def _cumulant(second: np.ndarray, fourth: np.ndarray) -> np.ndarray:
    return 1.0 - fourth / (3.0 * second**2)


class _Fit:
    """Polynomials of ``scale`` (U(x) − ``star``), as numpy's coefficients: of the data, and of each bootstrap sample."""

    def __init__(self, x: np.ndarray, curve: _Resampled, degree: int, star: float, scale: float):
        errors = curve.cumulants.std(axis=0, ddof=1)
        weights = 1.0 / np.maximum(errors, 1.0e-3 * errors.max() + 1.0e-12)
        self.best = scale * np.polyfit(x, curve.cumulant - star, degree, w=weights)
        self.samples = scale * np.polyfit(x, curve.cumulants.T - star, degree, w=weights).T


def _falling_zero(polynomial: np.ndarray) -> float | None:
    """The only zero within [−1, 1] at which the polynomial falls; None if there is none, or more.

    Below T_c the larger system has the larger cumulant, so that the difference falls through zero; where it rises, curves
    touch by noise.
    """
    roots = np.roots(polynomial)
    real = roots.real[(np.abs(roots.imag) < 1.0e-9) & (np.abs(roots.real) <= 1.0)]
    falling = real[np.polyval(np.polyder(polynomial), real) < 0.0]
    return float(falling[0]) if len(falling) == 1 else None
