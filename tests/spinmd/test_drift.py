"""The drift of a conserved quantity and its error, against exact and statistical cases."""

import math

import numpy as np
import pytest

from spinmd.drift import drift, mean_and_error


def test_exact_line_has_its_slope_and_no_error():
    time = np.arange(0.0, 10.0, 0.01)
    slope, error = drift(time, 7.0 + 0.25 * time)
    assert slope == pytest.approx(0.25, rel=1e-12)
    assert error < 1e-12


def test_first_picosecond_is_left_out_of_a_longer_run():
    time = 3.0 + np.arange(501) * 0.01  # a run need not start at zero
    energy = 2.0 * (time - 3.0)
    energy[time < 4.0 - 1e-9] = 1000.0  # one row more or less would spoil the slope
    slope, error = drift(time, energy)
    assert slope == pytest.approx(2.0, rel=1e-9)
    assert error < 1e-9


def test_rounding_of_the_clock_loses_no_row():
    time = np.concatenate(([0.0], np.cumsum(np.full(1500, 0.001))))
    first = np.flatnonzero(np.round(time, 6) == 1.0)[0]
    time[first] = np.nextafter(1.0, 0.0)  # what a sum of timesteps may come to
    energy = np.zeros_like(time)
    energy[first] = 1.0
    assert drift(time, energy)[0] == pytest.approx(np.polyfit(time[first:], energy[first:], 1)[0], rel=1e-9)


def test_all_rows_of_a_shorter_run_are_used():
    time = np.arange(0.0, 0.9, 0.01)
    energy = np.where(time < 0.45, 0.0, 1.0)
    expected = np.polyfit(time, energy, 1)[0]
    assert drift(time, energy)[0] == pytest.approx(expected, rel=1e-9)


def test_slope_and_white_error_agree_with_an_independent_fit():
    from scipy.stats import linregress

    rng = np.random.default_rng(5)
    time = np.linspace(0.0, 0.5, 15)  # fewer than 16 rows: no blocks longer than one row
    energy = 3.0 * time + rng.normal(size=15)
    reference = linregress(time, energy)
    assert drift(time, energy) == pytest.approx((reference.slope, reference.stderr), rel=1e-9)


@pytest.mark.parametrize("memory", [0.0, 0.9], ids=["white noise", "correlated noise"])
def test_error_covers_the_scatter_of_the_slope(memory):
    """Over 300 runs of known slope the deviations in units of the error have a spread near 1, also for correlated rows.

    A white-noise error would give a spread of sqrt((1 + 0.9)/(1 − 0.9)) = 4.4 for the correlated ones.
    """
    rng = np.random.default_rng(11)
    runs, rows = 300, 1024
    time = 0.01 * np.arange(rows)
    noise = rng.normal(size=(runs, rows))
    for k in range(1, rows):
        noise[:, k] += memory * noise[:, k - 1]
    deviations = []
    for row in noise:
        slope, error = drift(time, 0.5 * time + row)
        deviations.append((slope - 0.5) / error)
    spread = np.std(deviations)
    # the largest of several noisy errors is taken, so the spread is somewhat below 1 for white noise
    assert 0.6 < spread < 1.35
    assert abs(np.mean(deviations)) < 4.0 * spread / math.sqrt(runs)


def test_too_few_rows_have_no_answer():
    assert all(math.isnan(x) for x in drift([], []))
    assert all(math.isnan(x) for x in drift([1.0], [2.0]))
    assert all(math.isnan(x) for x in drift([1.0, 1.0], [2.0, 3.0]))
    slope, error = drift([0.0, 0.5], [0.0, 1.0])
    assert slope == pytest.approx(2.0) and math.isnan(error)


def test_rows_that_are_not_finite_are_left_out():
    time = np.arange(0.0, 0.9, 0.1)
    energy = 4.0 * time
    energy[3] = np.nan
    assert drift(time, energy)[0] == pytest.approx(4.0, rel=1e-9)


def test_arrays_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        drift([0.0, 1.0], [0.0])


def test_error_of_a_mean_of_correlated_values():
    """x' = a x + noise with variance 1/(1 - a²): the variance of a long mean is (1 + a)/(1 - a) times that of independent ones."""
    random = np.random.default_rng(3)
    a, rows, runs = 0.9, 4096, 40
    noise = random.normal(size=(runs, rows + 200))
    values = np.zeros_like(noise)
    for k in range(1, noise.shape[1]):
        values[:, k] = a * values[:, k - 1] + noise[:, k]
    means, errors = np.transpose([mean_and_error(run[200:]) for run in values])
    exact = np.sqrt((1 + a) / (1 - a) / (1 - a**2) / rows)
    # the largest of several estimates is above the exact error by a third or so
    assert exact < np.median(errors) < 1.7 * exact
    assert np.abs(means).max() < 5.0 * exact
    naive = values[:, 200:].std(axis=1, ddof=1) / np.sqrt(rows)
    assert np.median(naive) < 0.3 * exact  # what neglecting the correlation would give


def test_means_of_few_values():
    assert mean_and_error([2.0, math.nan, 4.0]) == (3.0, 1.0)
    assert mean_and_error([5.0])[0] == 5.0 and math.isnan(mean_and_error([5.0])[1])
    assert all(math.isnan(number) for number in mean_and_error([]))
