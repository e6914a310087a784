"""Averages of correlated rows: how long they remember, means, and errors of what is made of means, by the bootstrap.

    tau = correlation_time(values)                       in rows
    mean, error = mean_with_error(values)
    blocks = Blocks(np.stack([m**2, m**4], axis=1))      (rows, columns)
    cumulant = blocks.estimate(lambda mean: 1 - mean[..., 1] / (3 * mean[..., 0] ** 2))

Blocks are longer than the correlation time, so that they are nearly independent, and are drawn with replacement (Künsch,
Ann. Stat. 17, 1217 (1989)). A run that is not long against its correlation time cannot know its own error: ``too_short`` says so
in a sentence.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spinmd.drift import mean_and_error

WINDOW = 5.0  # Sokal's: sum correlations up to this many correlation times
BLOCK_TIMES = 8.0  # length of a block in correlation times
FEWEST_BLOCKS = 10
RESAMPLES = 400
LONG_ENOUGH = 20.0  # correlation times of a run whose errors can be trusted


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.6g} ± {self.error:.2g}"


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


def longest_time(columns) -> float:
    """The largest correlation time of (rows, columns), in rows; ½ where nothing changes."""
    times = [correlation_time(column) for column in np.asarray(columns, dtype=np.float64).T]
    return max([time for time in times if time == time], default=0.5)


def mean_with_error(values) -> tuple[float, float]:
    """Mean and standard error of (rows,) correlated values, in the order of time; NaN where there are too few.

    The larger of two estimates: from blocks (``spinmd.drift.mean_and_error``), and σ √(2τ/n) with the correlation time τ. Values
    that are not finite are left out.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    mean, error = mean_and_error(values)
    tau = correlation_time(values)
    if tau == tau:
        share = min(
            2.0 * tau / len(values), 0.75
        )  # a short run scatters about its own mean: σ² comes out (1 − 2τ/n) too small
        error = max(error, float(values.std(ddof=1)) * math.sqrt(share / (1.0 - share)))
    return mean, error


def too_short(rows: int, tau: float, what: str = "rows") -> str | None:
    """A sentence where a run has fewer than ``LONG_ENOUGH`` correlation times, so that its errors are too small; else None."""
    if tau != tau or rows >= LONG_ENOUGH * 2.0 * tau:
        return None
    if rows < 2:
        return f"one {what.removesuffix('s')} alone has no errors, and knows nothing of fluctuations; run longer"
    count = round(max(rows / (2.0 * tau), 1.0))
    words = f"are only {count} independent ones" if count > 1 else "are no more than a single independent one"
    return (
        f"errors are rough, and rather too small: {rows} {what} {words} (the correlation time is {tau:.2g}); run longer"
    )


class Blocks:
    """Means of blocks of (rows, columns) data, and of bootstrap samples of these blocks.

    columns  (rows, k), or a list of such arrays: independent runs of one quantity, whose blocks are drawn together
    guide    (rows, j) what the correlation time is taken from, or a list; None: the columns
    seed     of the draws: the same data give the same errors

    mean (k,) of all rows, samples (RESAMPLES, k); tau rows; count of blocks; rows. Where rows are too few for ten blocks of
    eight correlation times, blocks are shorter, and errors too small: see ``too_short``.
    """

    def __init__(self, columns, guide=None, seed: int = 0):
        parts = [np.asarray(part, dtype=np.float64) for part in (columns if isinstance(columns, list) else [columns])]
        parts = [part[:, None] if part.ndim == 1 else part for part in parts]
        guides = parts if guide is None else (guide if isinstance(guide, list) else [guide])
        guides = [np.asarray(one, dtype=np.float64) for one in guides]
        self.tau = max(longest_time(one[:, None] if one.ndim == 1 else one) for one in guides)
        self.rows = sum(map(len, parts))
        self.wanted = math.ceil(BLOCK_TIMES * self.tau)  # rows in a block
        length = min(self.wanted, max(self.rows // FEWEST_BLOCKS, 1), *(len(part) for part in parts))
        self.means = np.concatenate([_block_means(part, length) for part in parts])
        self.count = len(self.means)
        self.mean = np.concatenate(parts).mean(axis=0)
        drawn = np.random.default_rng(seed).integers(self.count, size=(RESAMPLES, self.count))
        # weights instead of the drawn blocks themselves: a matrix product, in little memory
        weights = np.zeros((RESAMPLES, self.count))
        np.add.at(weights, (np.arange(RESAMPLES)[:, None], drawn), 1.0 / self.count)
        # about the mean of all rows, also of those at the beginning that fill no block
        self.samples = weights @ self.means + (self.mean - self.means.mean(axis=0))

    @property
    def enough(self) -> bool:
        """Whether there are ten blocks of eight correlation times."""
        return self.rows // self.wanted >= FEWEST_BLOCKS

    def values(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """``function`` of the mean and its standard error; it takes (..., k) means and gives (...) or (..., j) numbers."""
        value = np.asarray(function(self.mean))
        if self.count < 2:
            return value, np.full(value.shape, math.nan)
        # the variance of means of n blocks that are drawn with replacement is (n − 1)/n of the true one
        return value, np.std(function(self.samples), axis=0) * math.sqrt(self.count / (self.count - 1))

    def estimate(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """As ``values``, of one number."""
        value, error = self.values(function)
        return Estimate(float(value), float(error))


def _block_means(part: np.ndarray, length: int) -> np.ndarray:
    count = len(part) // length
    return part[len(part) - count * length :].reshape(count, length, -1).mean(axis=1)


def jackknife(
    parts: Sequence, function: Callable[[np.ndarray], np.ndarray], counts: Sequence | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """``function`` of the mean of (blocks, ...) parts and its standard error from leaving out one block at a time.

    counts  (blocks,) what each part is the mean of, where these differ
    """
    parts = np.asarray(parts, dtype=np.float64)
    n = len(parts)
    counts = np.ones(n) if counts is None else np.asarray(counts, dtype=np.float64)
    weighted = parts * counts.reshape(n, *([1] * (parts.ndim - 1)))
    total = np.sum(weighted, axis=0)
    value = np.asarray(function(total / counts.sum()), dtype=np.float64)
    if n < 2:
        return value, np.full(value.shape, math.nan)
    rest = counts.sum() - counts
    left = np.array([function((total - part) / others) for part, others in zip(weighted, rest, strict=True)])
    return value, np.sqrt((n - 1) / n * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
