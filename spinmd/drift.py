"""Drift of a conserved quantity, and means: a slope or a mean with an error that knows that neighbouring rows are correlated.

The same function is used for spinmd's runs and for those of other codes, so that their numbers compare.
"""

import math

import numpy as np

SKIPPED_PS = 1.0
FEWEST_ROWS = 3
FEWEST_BLOCKS = 8


def drift(time_ps, energy_per_atom_meV) -> tuple[float, float]:
    """Slope and standard error, meV/atom/ps, of a conserved quantity over the rows after the first picosecond.

        slope = Σ (t − t̄) E / Σ (t − t̄)²

    All rows are used if fewer than three come later than one picosecond after the first. The error: rows are averaged
    in blocks of 1, 2, 4, ... rows, as long as there are eight blocks; each block length gives the usual standard error
    of the slope through the block means, and the largest counts. It grows with the block length until blocks are longer
    than the correlation time (Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989), for the error of a mean).

    time_ps (n,), energy_per_atom_meV (n,). The slope is NaN for fewer than two different times, the error for fewer
    than three rows. Rows that are not finite are left out. Raises ValueError if the arrays differ in length.
    """
    time = np.asarray(time_ps, dtype=np.float64)
    energy = np.asarray(energy_per_atom_meV, dtype=np.float64)
    if time.shape != energy.shape or time.ndim != 1:
        raise ValueError(f"times {time.shape} and energies {energy.shape} must be two arrays of one length")
    good = np.isfinite(time) & np.isfinite(energy)
    time, energy = time[good], energy[good]
    if len(time):
        # the clock is a sum of timesteps: allow for its rounding
        later = time >= time[0] + SKIPPED_PS - 1.0e-9
        if np.count_nonzero(later) >= FEWEST_ROWS:
            time, energy = time[later], energy[later]
    slope, error = _line(time, energy)
    length = 2
    while len(time) // length >= FEWEST_BLOCKS:
        error = max(error, _line(_blocks(time, length), _blocks(energy, length))[1])
        length *= 2
    return slope, error


def mean_and_error(values) -> tuple[float, float]:
    """Mean and its standard error for (n,) correlated values in the order of time, from blocks as in ``drift``.

    Values that are not finite are left out. The mean is NaN without values, the error with fewer than two.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    mean = float(values.mean()) if len(values) else math.nan
    error, length = _error_of_mean(values), 2
    while len(values) // length >= FEWEST_BLOCKS:
        error = max(error, _error_of_mean(_blocks(values, length)))
        length *= 2
    return mean, error


def _error_of_mean(values: np.ndarray) -> float:
    """Standard error of the mean of uncorrelated values; NaN for fewer than two."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _blocks(values: np.ndarray, length: int) -> np.ndarray:
    """Means over consecutive blocks; rows that do not fill a block are left out at the start."""
    count = len(values) // length
    return values[len(values) - count * length :].reshape(count, length).mean(axis=1)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of the least-squares line and its standard error for uncorrelated residuals."""
    if len(x) < 2:
        return math.nan, math.nan
    dx, dy = x - x.mean(), y - y.mean()
    spread = float(dx @ dx)
    if spread == 0.0:
        return math.nan, math.nan
    slope = float(dx @ dy) / spread
    if len(x) < FEWEST_ROWS:
        return slope, math.nan
    residual = dy - slope * dx
    return slope, math.sqrt(float(residual @ residual) / (len(x) - 2) / spread)
