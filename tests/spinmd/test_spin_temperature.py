"""The configurational spin temperature: exact canonical averages, and its curvature terms against finite differences."""

import numpy as np
import pytest
from support.systems import bcc, every_spin_term

from spinmd.model import Model
from spinmd.potentials.anisotropy import CubicAnisotropy, UniaxialAnisotropy
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need
from spinmd.spin_temperature import on_site_curvature
from spinmd.state import State
from spinmd.units import BOLTZMANN


def independent_spins(directions, moment):
    n = len(directions)
    positions = np.arange(n)[:, None] * [3.0, 0.0, 0.0]
    cell = np.diag([3.0 * n, 9.0, 9.0])
    return State.create(cell, positions, ["Fe"] * n, np.full(n, 55.8), spins=moment * directions)


def sample(energy, temperature, count, rng):
    """Independent unit vectors from exp(−E/kT) by rejection; ``energy`` (eV) of an (n, 3) array of unit vectors."""
    trial = rng.normal(size=(2_000_000, 3))
    trial /= np.linalg.norm(trial, axis=1)[:, None]
    e = energy(trial)
    keep = rng.random(len(e)) < np.exp(-(e - e.min()) / (BOLTZMANN * temperature))
    assert keep.sum() >= count
    return trial[keep][:count]


@pytest.mark.parametrize("kind", ["field", "uniaxial", "cubic"])
def test_canonical_samples_have_their_temperature(kind):
    """40000 independent spins drawn from the exact distribution at 300 K, within three standard errors (about 1 %)."""
    temperature, moment = 300.0, 2.2
    rng = np.random.default_rng(1)
    axis = np.array([0.0, 0.6, 0.8])
    terms, energy = {
        "field": (Zeeman(field=[0, 0, 400.0]), lambda e: -moment * 400.0 * 5.7883817982e-5 * e[:, 2]),
        "uniaxial": (UniaxialAnisotropy(K=0.05, axis=axis), lambda e: -0.05 * (e @ axis) ** 2),
        "cubic": (
            CubicAnisotropy(K1=0.2, K2=0.3),
            lambda e: (
                0.2 * (e[:, 0] ** 2 * e[:, 1] ** 2 + e[:, 1] ** 2 * e[:, 2] ** 2 + e[:, 2] ** 2 * e[:, 0] ** 2)
                + 0.3 * np.prod(e**2, axis=1)
            ),
        ),
    }[kind]
    state = independent_spins(sample(energy, temperature, 40000, rng), moment)
    assert Model(state, [terms], threads=1).spin_temperature() == pytest.approx(temperature, rel=0.03)


def test_curvature_of_every_term_against_finite_differences():
    """Σ (|w|² tr A − w·A·w), A = ∂²E/∂w_i∂w_i, from the field's own finite differences."""
    state = bcc(2, seed=4)
    model = Model(state, every_spin_term(), threads=1)
    w = state.spins / state.moments[:, None]
    found = on_site_curvature(w, model.couplings())
    expected, step = 0.0, 1e-5
    start = state.spins.copy()
    for i in range(state.natoms):
        matrix = np.zeros((3, 3))
        for a in range(3):
            ends = []
            for sign in (1.0, -1.0):
                state.spins[:] = start
                state.spins[i, a] += sign * step
                model.moved(spins=True)
                ends.append(model.evaluate(Need.FIELD).fields[i].copy())
            matrix[a] = -(ends[0] - ends[1]) / (2.0 * step) * state.moments[i] ** 2
        expected += w[i] @ w[i] * np.trace(matrix) - w[i] @ matrix @ w[i]
    assert found == pytest.approx(expected, rel=1e-6)


def test_sampled_curvature_is_the_on_site_one(monkeypatch):
    """Of terms whose curvature is known: the mean over many probes, within three standard errors."""
    from support import systems
    from support.live import Live

    import spinmd.spin_temperature as module
    from spinmd.spin_temperature import on_site_curvature, sampled_curvature

    state = systems.bcc(6, seed=4)
    frozen = systems.model(state, systems.every_spin_term())
    inverse = 1.0 / state.moments
    exact = on_site_curvature(state.spins * inverse[:, None], frozen.couplings())
    before = state.spins.copy()
    live = systems.model(state, [Live(term) for term in systems.every_spin_term()])
    found = []
    for seed in range(60):
        monkeypatch.setattr(module, "PROBE_SEED", seed)
        found.append(sampled_curvature(state, live.add_live_fields))
    assert np.array_equal(state.spins, before)
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert error < 0.05 * abs(exact)
    assert abs(np.mean(found) - exact) < 3.0 * error
