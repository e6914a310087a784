"""The noise: known answers of the generator, Gaussians, and that nothing but its five arguments enters."""

import numba
import numpy as np
import pytest
from numba import njit
from scipy import stats

from spinmd import rng


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)  # fmt: skip
def test_known_answers_of_philox(counter, key, expected):
    """The vectors that its authors publish."""
    assert [int(v) for v in rng.philox(*[np.uint64(v) for v in [*counter, *key]])] == expected


@njit
def logarithms(u):
    result = np.empty(len(u))
    for i in range(len(u)):
        result[i] = rng.log_of(u[i])
    return result


@njit
def turns(a):
    result = np.empty((len(a), 2))
    for i in range(len(a)):
        result[i] = rng.cos_sin_turn(a[i])
    return result


def test_logarithm_and_circle_are_exact():
    u = np.concatenate(
        [np.random.default_rng(0).random(100000), 2.0 ** -np.arange(1, 42), 1 - 2.0 ** -np.arange(1, 42)]
    )
    exact = np.log(u)
    assert (np.abs(logarithms(u) - exact) / np.spacing(np.abs(exact))).max() <= 2.0
    a = np.arange(0, 1 << 24, 97)
    np.testing.assert_allclose(
        turns(a), np.stack([np.cos(2 * np.pi * a / 2**24), np.sin(2 * np.pi * a / 2**24)], 1), atol=1e-15
    )


def normals(n, seed=1, channel=rng.SPIN_CHANNEL, step=0, ids=None):
    out = np.empty((n, 3))
    rng.fill_normals(n, np.arange(n) if ids is None else ids, seed, channel, step, out, 256)
    return out


def test_gaussian():
    values = normals(400_000)
    for column in values.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
        z = np.sqrt(len(column))
        assert abs(column.mean()) * z < 4.0
        assert abs((column**2).mean() - 1.0) * z / np.sqrt(2.0) < 4.0
        assert abs((column**4).mean() - 3.0) * z / np.sqrt(96.0) < 4.0
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() * np.sqrt(len(values)) < 4.0


def test_streams_are_independent():
    """Steps, channels, seeds and neighbouring atoms: no correlation."""
    n = 100_000
    first = normals(n).ravel()
    others = [normals(n, step=1), normals(n, channel=rng.SPIN_CHANNEL + 1), normals(n, channel=rng.LATTICE_CHANNEL)]
    others += [
        normals(n, seed=2),
        normals(n, seed=1 + (1 << 32)),
        normals(n, step=1 << 33),
        np.roll(normals(n), 1, axis=0),
    ]
    for other in others:
        assert abs((first * other.ravel()).mean()) * np.sqrt(3 * n) < 4.0


def test_nothing_but_atom_and_step_counts():
    """Order of the atoms, number of atoms and threads do not matter; the scalar function gives the same numbers."""
    n = 1000
    reference = normals(n, seed=-5, step=12345678901)
    order = np.random.default_rng(0).permutation(n)
    np.testing.assert_array_equal(normals(n, seed=-5, step=12345678901, ids=order), reference[order])
    np.testing.assert_array_equal(normals(300, seed=-5, step=12345678901), reference[:300])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    np.testing.assert_array_equal(normals(n, seed=-5, step=12345678901), reference)
    numba.set_num_threads(threads)
    assert [rng.normal4(-5, rng.SPIN_CHANNEL, 12345678901, i)[:3] for i in range(50)] == [
        tuple(r) for r in reference[:50]
    ]


def test_uniform_numbers():
    """Strictly between 0 and 1, at the ends of the integers too."""
    assert 0.0 < rng.uniform_of(0, 0) < 1e-15
    assert 1.0 - 1e-15 < rng.uniform_of(0xFFFFFFFF, 0xFFFFFFFF) < 1.0
    assert np.isfinite(rng.radius_of(0, 0)) and rng.radius_of(0, 0) < 7.6
    assert rng.radius_of(0xFFFFFFFF, 255) > 0.0


@pytest.mark.parametrize("shape", [1.0, 2.5, 60.0])
def test_gamma_has_its_distribution(shape):
    values = np.array([rng.gamma(shape, 7, rng.GLOBAL_CHANNEL, step) for step in range(4000)])
    assert stats.kstest(values, stats.gamma(shape).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.06
