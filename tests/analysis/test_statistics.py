"""Means and errors of correlated rows, on a process whose correlation time and variance are known."""

import numpy as np
import pytest

from spinmd.analysis.statistics import Blocks, correlation_time, jackknife, mean_with_error, too_short
from spinmd.drift import mean_and_error

TIME = 5.0
FACTOR = np.exp(-1.0 / TIME)
TAU = 0.5 * (1.0 + FACTOR) / (1.0 - FACTOR)


def process(rng, rows):
    """Gaussians of unit variance whose correlation falls as exp(−t/TIME)."""
    noise, values = rng.normal(size=rows), np.empty(rows)
    values[0] = noise[0]
    for t in range(1, rows):
        values[t] = FACTOR * values[t - 1] + np.sqrt(1.0 - FACTOR**2) * noise[t]
    return values


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(11)
    return [process(rng, 1500) for _ in range(80)]


def test_error_of_a_mean_is_the_scatter_of_runs(runs):
    found = [mean_with_error(run) for run in runs]
    scatter = np.std([mean for mean, _ in found], ddof=1)
    assert scatter == pytest.approx(np.sqrt(2.0 * TAU / 1500), rel=0.25)
    assert np.mean([error for _, error in found]) == pytest.approx(scatter, rel=0.25)


def test_error_of_a_short_run_is_not_that_of_its_blocks(runs):
    """A hundred rows of ten independent ones: eight blocks of them do not know the error, the correlation time does better."""
    parts = [part for run in runs for part in run.reshape(15, 100)]
    scatter = np.std([part.mean() for part in parts], ddof=1)
    errors = np.array([mean_with_error(part)[1] for part in parts])
    assert 1.1 * scatter > errors.mean() > 0.8 * scatter
    assert np.mean([mean_and_error(part)[1] for part in parts]) < 0.78 * scatter


def test_error_of_a_variance_is_the_scatter_of_runs(runs):
    found = [Blocks(np.column_stack([run, run**2])).estimate(lambda m: m[..., 1] - m[..., 0] ** 2) for run in runs]
    scatter = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.error for one in found]) == pytest.approx(scatter, rel=0.25)


def test_independent_runs_are_one_sample(runs):
    parts = [run[:, None] for run in runs[:4]]
    blocks = Blocks(parts)
    assert blocks.rows == 6000 and blocks.enough
    assert blocks.mean[0] == pytest.approx(np.mean(parts), rel=1e-12)
    assert blocks.samples.mean() == pytest.approx(np.mean(parts), abs=0.02)
    error = blocks.estimate(lambda m: m[..., 0]).error
    assert error == pytest.approx(np.sqrt(2.0 * TAU / 6000), rel=0.3)


def test_a_short_run_says_so(runs):
    assert too_short(1500, correlation_time(runs[0])) is None
    assert "errors are rough" in too_short(60, 5.0) and "60 rows are only 6" in too_short(60, 5.0)
    assert "60 rows are no more than a single independent one (the correlation time is 40)" in too_short(60, 40.0)
    assert too_short(1, 0.5, "frames").startswith("one frame alone has no errors")
    assert not Blocks(runs[0][:60]).enough
    assert too_short(60, float("nan")) is None


def test_jackknife_of_a_mean_is_its_standard_error(runs):
    parts = np.array(runs)[:, 0]
    value, error = jackknife(parts, lambda mean: mean)
    assert value == pytest.approx(parts.mean()) and error == pytest.approx(parts.std(ddof=1) / np.sqrt(80))
    assert np.isnan(jackknife(parts[:1], lambda mean: mean)[1])
