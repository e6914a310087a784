"""Critical temperatures from the Binder cumulant of the magnetisation: cumulants and crossings, with errors.

    U = 1 − ⟨m⁴⟩/(3 ⟨m²⟩²)

with m the length of the mean moment: Binder, Z. Phys. B 43, 119 (1981). For the Heisenberg model U is 2/3 in the ordered phase
and 4/9 in the disordered one; at T_c it hardly depends on the size, so that the curves U(T) of two sizes cross there.

Rows of a run are correlated: errors come from the bootstrap of blocks (``statistics``) which are longer than the time over
which m² is correlated. A block takes the rows of all temperatures together, since parallel tempering moves replicas from one to
another; runs that are independent, one for each temperature, are given as a list, and each has blocks of its own.
"""

from dataclasses import dataclass

import numpy as np

from spinmd.analysis.statistics import BLOCK_TIMES, FEWEST_BLOCKS, Blocks, Estimate, correlation_time
from spinmd.errors import InputError

__all__ = ["Crossing", "Estimate", "binder_crossing", "binder_cumulant", "correlation_time"]

# U* and ω of O(3) in a periodic cube: Hasenbusch, J. Phys. A 34, 8221 (2001); Campostrini et al., Phys. Rev. B 65, 144520 (2002)
HEISENBERG = (0.6202, 0.773)


@dataclass(frozen=True)
class Crossing:
    """Where the curves of two sizes cross: the temperature, K (or in the unit that was given), and the cumulant of the larger."""

    temperature: Estimate
    cumulant: Estimate


def binder_cumulant(magnetisation, seed: int = 0) -> list[Estimate]:
    """U at each temperature with its error; ``magnetisation``: see ``binder_crossing``; or (rows,).

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
    small, large  (rows, temperatures), the length of the mean moment of each size in equilibrium; rows may differ in number. Or a
                  list, for each temperature (rows,) or a list of these: independent runs
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
        if isinstance(magnetisation, list):
            parts = [_Resampled(_runs(run), seed + 1000 * k) for k, run in enumerate(magnetisation)]
            self.cumulant = np.concatenate([part.cumulant for part in parts])
            self.cumulants = np.concatenate([part.cumulants for part in parts], axis=1)
            return
        runs = magnetisation if isinstance(magnetisation, tuple) else (magnetisation,)
        squares = [_squares(run) for run in runs]
        if not np.concatenate(squares).any(axis=0).all():
            raise InputError("the magnetisation is zero in all rows", "magnetisation")
        blocks = Blocks([np.concatenate([square, square**2], axis=1) for square in squares], squares, seed)
        if not blocks.enough:
            raise InputError(
                f"{blocks.rows} rows are too few for an error, with correlations over {blocks.wanted / BLOCK_TIMES:.0f} rows; run "
                f"{FEWEST_BLOCKS * blocks.wanted} or more",
                "magnetisation",
            )
        half = squares[0].shape[1]
        self.cumulant = _cumulant(blocks.mean[:half], blocks.mean[half:])
        self.cumulants = _cumulant(blocks.samples[:, :half], blocks.samples[:, half:])


def _runs(run) -> tuple:
    return tuple(run) if isinstance(run, (list, tuple)) else (run,)


def _squares(magnetisation) -> np.ndarray:
    values = np.asarray(magnetisation, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all() or (values < 0.0).any():
        raise InputError(
            "expected lengths of the magnetisation, (rows, temperatures), finite and not negative", "magnetisation"
        )
    return values**2


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
