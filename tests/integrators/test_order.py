"""Convergence orders against exact answers and fine-step references: order 2 is measured."""

import numpy as np
import pytest
from support.solvers import ORDER
from support.solvers import SOLVERS as ALL
from support.systems import bcc, every_spin_term, exchange, model, morse

from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.splitting import Splitting
from spinmd.potentials.anisotropy import UniaxialAnisotropy
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.zeeman import Zeeman
from spinmd.state import State
from spinmd.units import AMU, BOHR_MAGNETON, HBAR

SOLVERS = {name: make for name, make in ALL.items() if name != "live-midpoint"}


def advance(state, terms, sequence, dt, steps, solver):
    system = model(state, terms)
    integrator = Splitting(sequence, dt, {"R": Drift(), "V": Kick(), "S": solver})
    aux = integrator.init(state, 0)
    for _ in range(steps):
        assert integrator.step(state, aux, system).ok
    return state


def measured_order(errors, factor=2.0):
    """Slope of log error against log dt, dt falling by ``factor`` each time."""
    x = -np.arange(len(errors)) * np.log(factor)
    return np.polyfit(x, np.log(errors), 1)[0]


def two_spins(angle=1.0, moments=(2.2, 2.2)):
    directions = np.array([[0.0, 0.0, 1.0], [np.sin(angle), 0.0, np.cos(angle)]])
    return State.create(
        np.eye(3) * 20.0, [[5.0, 5.0, 5.0], [8.0, 5.0, 5.0]], ["Fe"] * 2, [55.845] * 2, pbc=[False] * 3,
        spins=directions * np.array(moments)[:, None],
    )  # fmt: skip


def rotation(axis_angle):
    angle = np.linalg.norm(axis_angle)
    n = axis_angle / angle
    k = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("moments", [(2.2, 2.2), (2.2, 1.1)])
def test_two_spin_precession_is_exact_to_second_order(name, moments):
    """dS1/dt = (g/ħ) J/(m1 m2) S2 × S1: both spins turn about S1 + S2 with the angular velocity (g/ħ) J/(m1 m2) (S1 + S2)."""
    coupling, time = 0.02, 0.25
    term = Exchange(form="constant", J0=coupling, cutoff=4.0, smoothing=0.0)
    start = two_spins(moments=moments).spins
    omega = 2.0 / HBAR * coupling / (moments[0] * moments[1]) * start.sum(axis=0)
    exact = start @ rotation(omega * time).T
    errors = []
    finer = {"heun": 16, "semi-implicit": 8, "runge-kutta": 4}.get(name, 1)  # their errors of third order are large
    for steps in (50 * finer, 100 * finer, 200 * finer, 400 * finer):
        state = advance(two_spins(moments=moments), [term], "S", time / steps, steps, SOLVERS[name]())
        errors.append(np.abs(state.spins - exact).max())
    assert measured_order(errors) == pytest.approx(ORDER[name], abs=0.1)
    assert errors[-1] < 3e-3


@pytest.mark.parametrize("name", SOLVERS)
def test_larmor_frequency_in_a_field(name):
    """ω = g µ_B B/ħ whatever the moment, right-handed about the field: dS/dt = −(g/ħ) S × F, F = µ_B B."""
    field, time, steps = 10.0, 0.5, 4000
    spins = np.array([[2.2, 0.0, 0.0], [0.7, 0.0, 0.0]])
    state = two_spins()
    state.spins[:] = spins
    state.moments[:] = [2.2, 0.7]
    advance(state, [Zeeman(field=[0, 0, field])], "S", time / steps, steps, SOLVERS[name]())
    angle = 2.0 * BOHR_MAGNETON * field / HBAR * time
    exact = spins @ rotation(np.array([0, 0, angle])).T
    np.testing.assert_allclose(state.spins, exact, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("alpha", [0.01, 0.5])
def test_damped_spin_follows_the_closed_form(name, alpha):
    """e_z = tanh(α ω t/(1 + α²)), azimuth ω t/(1 + α²) of a spin that starts along x, ω = g µ_B B/ħ; order 2."""
    field, time = 200.0, 0.1
    omega = 2.0 * BOHR_MAGNETON * field / HBAR
    z = np.tanh(alpha * omega * time / (1 + alpha**2))
    phi = omega * time / (1 + alpha**2)
    exact = np.array([np.sqrt(1 - z * z) * np.cos(phi), np.sqrt(1 - z * z) * np.sin(phi), z])
    errors = []
    for steps in (50, 100, 200):
        state = two_spins()
        state.spins[:] = [[2.2, 0.0, 0.0], [2.2, 0.0, 0.0]]
        advance(state, [Zeeman(field=[0, 0, field])], "S", time / steps, steps, SOLVERS[name](damping=alpha))
        errors.append(np.abs(state.spins[0] / 2.2 - exact).max())
    assert measured_order(errors) == pytest.approx(ORDER[name], abs=0.1)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("sequence", ["V S R S V", "V R S R V", "R V S V R"])
def test_coupled_dynamics_has_order_two(name, sequence):
    """Positions, velocities and spins of lattice and every spin term together, against a fine step."""
    time = 0.016

    def final(steps):
        state = bcc(2, seed=4)
        terms = [morse(), *every_spin_term()]
        return advance(state, terms, sequence, time / steps, steps, SOLVERS[name]())

    reference = final(256)
    errors = {"positions": [], "velocities": [], "spins": []}
    for steps in (8, 16, 32):
        state = final(steps)
        for key, values in errors.items():
            values.append(np.abs(getattr(state, key) - getattr(reference, key)).max())
    for key, values in errors.items():
        assert measured_order(values) == pytest.approx(2.0, abs=0.15), key


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_agree_in_the_limit_of_small_steps(name):
    """The same trajectory from the other solver at a sixteenth of the step."""
    other = next(key for key in SOLVERS if key != name)
    coarse = advance(bcc(2, seed=5), [morse(), *every_spin_term()], "V R S R V", 1e-4, 20, SOLVERS[name]())
    fine = advance(bcc(2, seed=5), [morse(), *every_spin_term()], "V R S R V", 1e-4 / 8, 160, SOLVERS[other]())
    np.testing.assert_allclose(coarse.spins, fine.spins, atol=2e-5)


def test_harmonic_vibration_frequency():
    """Two atoms in a Morse well: ω² = 2 D α² · 2/m for small amplitudes, from the zero crossings."""
    depth, stiffness, mass = 0.4, 1.4, 55.845
    from spinmd.potentials.pair import Morse

    state = State.create(
        np.eye(3) * 30.0, [[10.0, 10.0, 10.0], [12.5 + 1e-4, 10.0, 10.0]], ["Fe"] * 2, [mass] * 2, pbc=[False] * 3
    )
    omega = np.sqrt(2.0 * depth * stiffness**2 * 2.0 / (mass * AMU))
    period = 2.0 * np.pi / omega
    integrator = Splitting("V R V", period / 2000, {"R": Drift(), "V": Kick()})
    system = model(state, [Morse(depth=depth, alpha=stiffness, r0=2.5, cutoff=6.0)])
    aux = integrator.init(state, 0)
    for _ in range(500):  # a quarter period
        integrator.step(state, aux, system)
    assert abs(state.positions[1, 0] - state.positions[0, 0] - 2.5) < 1e-6


@pytest.mark.parametrize("name", SOLVERS)
def test_uniaxial_spin_precesses_about_the_axis(name):
    """A spin with E = −K e_z² keeps e_z and turns by ω = (g/ħ)(2K/m) e_z, as one spin sees no sweep error: order 2 of the angle."""
    strength, polar, time = 0.01, 0.7, 0.1
    state = two_spins()
    spin = 2.2 * np.array([np.sin(polar), 0.0, np.cos(polar)])
    state.spins[:] = spin
    term = UniaxialAnisotropy(K=strength, axis=[0, 0, 1])
    advance(state, [term], "S", time / 1000, 1000, SOLVERS[name]())
    angle = 2.0 / HBAR * 2.0 * strength / 2.2 * np.cos(polar) * time
    np.testing.assert_allclose(state.spins[0], rotation(np.array([0, 0, angle])) @ spin, atol=1e-5)
    assert abs(state.spins[0, 2] - spin[2]) < (1e-8 if name == "heun" else 1e-12)


@pytest.mark.parametrize("bad", ["V R S V", "", "V Q V"])
def test_bad_splittings_are_refused(bad):
    from spinmd.errors import InputError

    with pytest.raises(InputError, match="integrator.splitting"):
        Splitting(bad, 1e-3, {"R": Drift(), "V": Kick(), "S": Midpoint()})


def test_extrapolation_reduces_iterations():
    """After the history has filled, a solve takes fewer evaluations than without history, to the same tolerance."""
    state = bcc(2, seed=2)
    system = model(state, [morse(), exchange()])
    solver = Midpoint(tolerance=1e-8)
    integrator = Splitting("V S R S V", 1e-3, {"R": Drift(), "V": Kick(), "S": solver})
    aux = integrator.init(state, 0)
    integrator.step(state, aux, system)
    first = solver.evaluations
    for _ in range(10):
        integrator.step(state, aux, system)
    assert (solver.evaluations - first) / 10 < first - 1
