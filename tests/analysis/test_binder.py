"""Binder cumulants and their crossings, on data whose answer is known."""

import numpy as np
import pytest

from spinmd.analysis.binder import binder_crossing, binder_cumulant, correlation_time
from spinmd.errors import InputError


def correlated(rng, rows, time, shape=()):
    """Gaussians of unit variance whose correlation falls as exp(−t/time): integrated time ½ (1 + f)/(1 − f), f = exp(−1/time)."""
    factor = np.exp(-1.0 / time)
    noise = rng.normal(size=(rows, *shape))
    values = np.empty_like(noise)
    values[0] = noise[0]
    for t in range(1, rows):
        values[t] = factor * values[t - 1] + np.sqrt(1.0 - factor**2) * noise[t]
    return values


def test_correlation_time():
    rng = np.random.default_rng(1)
    for time in (3.0, 20.0):
        exact = 0.5 / np.tanh(0.5 / time)
        assert correlation_time(correlated(rng, 40_000, time)) == pytest.approx(exact, rel=0.15)
    assert correlation_time(rng.normal(size=20_000)) == pytest.approx(0.5, abs=0.05)
    assert np.isnan(correlation_time(np.ones(10)))


def test_cumulant_of_gaussian_and_of_ordered_magnetisation():
    """Disorder: three Gaussian components, 1 − 15/(3·9) = 4/9. Order: a fixed length, 2/3."""
    rng = np.random.default_rng(2)
    lengths = np.linalg.norm(correlated(rng, 20_000, 5.0, (3,)), axis=1)
    disordered, ordered = binder_cumulant(np.stack([lengths, np.full(20_000, 1.7)], axis=1))
    assert abs(disordered.value - 4.0 / 9.0) < 3.5 * disordered.error
    assert disordered.error < 0.01
    assert ordered.value == pytest.approx(2.0 / 3.0, abs=1e-12) and ordered.error < 1e-12


def test_errors_are_honest():
    """The error is the scatter of independent runs, within its own uncertainty, although rows are correlated."""
    rng = np.random.default_rng(3)
    runs = [binder_cumulant(np.linalg.norm(correlated(rng, 3000, 8.0, (3,)), axis=1))[0] for _ in range(60)]
    scatter = np.std([run.value for run in runs], ddof=1)
    assert np.mean([run.error for run in runs]) == pytest.approx(scatter, rel=0.25)


def model_run(rng, temperatures, size, rows=8000, critical=100.0):
    """|m| of three Gaussian components around an order that shrinks with x = (1 − T/T_c) L^1.4: U depends on x alone."""
    x = (1.0 - np.asarray(temperatures) / critical) * size**1.4
    order = np.exp(0.8 * x) * 2.0
    components = correlated(rng, rows, 2.0, (len(x), 3))
    components[:, :, 2] += order
    return np.linalg.norm(components, axis=2) / size**1.5


def test_crossing_is_found_with_its_error():
    rng = np.random.default_rng(4)
    temperatures = np.linspace(98.0, 102.5, 6)
    crossings = [
        binder_crossing(temperatures, model_run(rng, temperatures, 6), model_run(rng, temperatures, 12), seed=k)
        for k in range(30)
    ]
    found = np.array([one.temperature.value for one in crossings])
    errors = np.array([one.temperature.error for one in crossings])
    assert abs(found.mean() - 100.0) < 3.5 * found.std(ddof=1) / np.sqrt(30) + 0.02  # the fit is no exact form
    assert errors.mean() == pytest.approx(found.std(ddof=1), rel=0.4)
    assert errors.max() < 0.6
    cumulants = np.array([one.cumulant.value for one in crossings])
    assert np.mean([one.cumulant.error for one in crossings]) == pytest.approx(cumulants.std(ddof=1), rel=0.4)


def test_corrections_to_scaling():
    """With sizes the curves of (U − U*) L^ω cross: checked on the cumulants; ω = 0 changes nothing."""
    rng = np.random.default_rng(6)
    temperatures = np.linspace(98.0, 102.5, 6)
    runs = [model_run(rng, temperatures, size) for size in (6, 12)]
    plain = binder_crossing(temperatures, *runs)
    same = binder_crossing(temperatures, *runs, sizes=(6, 12), corrections=(0.5, 0.0))
    assert same.temperature.value == pytest.approx(plain.temperature.value, abs=1e-9)
    assert same.cumulant.value == pytest.approx(plain.cumulant.value, abs=1e-9)
    star, omega = plain.cumulant.value - 0.02, 0.8
    found = binder_crossing(temperatures, *runs, sizes=(6, 12), corrections=(star, omega))
    scaled = []
    for size, run in zip((6, 12), runs, strict=True):
        values = [one.value for one in binder_cumulant(run)]
        at = np.polyval(np.polyfit(temperatures - 100.0, values, 2), found.temperature.value - 100.0)
        scaled.append((at - star) * size**omega)
    assert at == pytest.approx(found.cumulant.value, abs=0.003)
    assert scaled[0] == pytest.approx(scaled[1], abs=0.02)
    assert found.temperature.value > plain.temperature.value + 0.1


def test_what_cannot_give_a_crossing_is_refused():
    rng = np.random.default_rng(5)
    above = np.linspace(101.5, 104.0, 4)
    small, large = model_run(rng, above, 6), model_run(rng, above, 12)
    with pytest.raises(InputError, match="do not cross once between 101.5 and 104; choose"):
        binder_crossing(above, small, large)
    with pytest.raises(InputError, match="at 3 temperatures, got 4"):
        binder_crossing(above[:3], small, large)
    with pytest.raises(InputError, match="needs 4 temperatures or more"):
        binder_crossing(above[:3], small[:, :3], large[:, :3], degree=3)
    with pytest.raises(InputError, match="too few for an error"):
        binder_cumulant(small[:50])
    with pytest.raises(InputError, match="finite and not negative"):
        binder_cumulant(-small)
    with pytest.raises(InputError, match="zero in all rows"):
        binder_cumulant(np.zeros(100))
    with pytest.raises(InputError, match="the smaller one first, got \\(12, 6\\)"):
        binder_crossing(above, small, large, sizes=(12, 6))
    with pytest.raises(InputError, match="all the same"):
        binder_crossing([100.0] * 4, small, large)
