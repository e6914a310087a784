"""Gilbert damping against closed forms and other codes' trajectories, for every solver, and the same law at T = 0 and T > 0."""

import numpy as np
import pytest
from support.live import Live
from support.solvers import ORDER, SOLVERS
from support.systems import bcc, exchange, model

from spinmd.errors import InputError
from spinmd.integrators.baths import SpinBath, Temperatures
from spinmd.integrators.build import build_integrator
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.splitting import Splitting
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.zeeman import Zeeman
from spinmd.state import State
from spinmd.units import BOHR_MAGNETON, HBAR

ALPHAS = {"Fe": 0.001, "Co": 0.01, "Ni": 0.1, "Cr": 0.5, "Mn": 1.0, "Gd": 2.0}
DECK_SOLVERS = [name for name in SOLVERS if name != "live-midpoint"]
LAMMPS_HBAR = 4.135667403e-3 / (2.0 * np.pi)  # eV ps


def free_spins(elements, moments, directions):
    """One atom each, in a row."""
    n = len(elements)
    positions = np.stack([3.0 * np.arange(n), np.zeros(n), np.zeros(n)], axis=1)
    spins = np.asarray(directions, float) * np.asarray(moments, float)[:, None]
    return State.create(np.diag([3.0 * n, 10.0, 10.0]), positions, elements, np.full(n, 50.0), spins=spins)


def closed_form(alpha, omega, time, start):
    """Unit spin at ``time`` that starts at e_z = ``start`` in the xz plane: e_z = tanh(α ω t/(1 + α²) + artanh e_z(0))."""
    phase = omega * time / (1.0 + alpha**2)
    z = np.tanh(alpha * phase + np.arctanh(start))
    across = np.sqrt(1.0 - z * z)
    return np.stack([across * np.cos(phase), across * np.sin(phase), z], axis=-1)


def path(state, terms, solver, dt, steps, every):
    """(times, N, 3) spins of the start and after every ``every`` steps, in the original order."""
    system = model(state, terms)
    integrator = Splitting("S", dt, {"S": solver})
    aux = integrator.init(state, 1)
    seen = [state.original_order(state.spins).copy()]
    for step in range(1, steps + 1):
        assert integrator.step(state, aux, system).ok
        if step % every == 0:
            seen.append(state.original_order(state.spins).copy())
    return np.array(seen)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("g_factor", [2.0, 2.0023])
def test_damped_precession_follows_the_closed_form(name, g_factor):
    """ω = (g/ħ) µ_B B/(1 + α²) and e_z = tanh(α ω t + artanh e_z(0)) all along, α from 0.001 to 2, whatever the moment."""
    field, time, steps, start = 100.0, 0.4, 1600, -0.6
    elements, alphas = list(ALPHAS), np.array(list(ALPHAS.values()))
    moments = np.array([2.2, 1.6, 0.6, 0.05, 5.0, 7.6])
    state = free_spins(elements, moments, [[np.sqrt(1 - start**2), 0.0, start]] * len(elements))
    zeeman = Zeeman(field=[0, 0, field])
    terms = [Live(zeeman) if name == "live-midpoint" else zeeman]
    solver = SOLVERS[name](bath=SpinBath(ALPHAS, g_factor=g_factor))
    seen = path(state, terms, solver, time / steps, steps, 100) / moments[:, None]
    times = time * np.linspace(0.0, 1.0, len(seen))
    omega = g_factor * BOHR_MAGNETON * field / HBAR
    exact = closed_form(alphas, omega, times[:, None], start)
    # 7 rad, at 0.0044 rad a step: (ω h)² ω t/12 of second order. 1/(1 + α²) missing is 7e-6 at α = 0.001 and 0.07 at 0.1
    np.testing.assert_allclose(seen, exact, atol=1e-9 if name == "runge-kutta" else 6e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_damping_for_all_is_the_same_as_one_by_element(name):
    ends = []
    for damping in (0.3, {"Fe": 0.3, "Ni": 0.3}):
        state = free_spins(["Fe", "Ni"], [2.2, 0.6], [[1, 0, 0], [0.6, 0, 0.8]])
        path(state, [Zeeman(field=[3.0, 0, 100.0])], SOLVERS[name](bath=SpinBath(damping)), 1e-3, 50, 50)
        ends.append(state.spins)
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_single_spin_of_lammps(name, alpha, shared):
    """Its precession and, at a temperature next to nothing, its damping with 1/(1 + α²); its field acts on 2.2 B."""
    kind = "alpha0.0_T0" if alpha == 0.0 else "alpha0.1_Teps"
    data = np.load(shared / f"reference/lammps/single_spin_m2.2_{kind}_dt0.001.npz")
    assert float(data["alpha"]) == alpha
    field = float(data["w0_radps"]) * HBAR / (2.0 * BOHR_MAGNETON)
    assert field == pytest.approx(float(data["moment"] * data["B_T"]), rel=2e-4)  # its µ_B and ħ
    state = free_spins(["Fe"], [2.2], data["spin"][:1])
    warm = Temperatures(float(data["T_K"])) if data["T_K"] > 0.0 else None
    solver = SOLVERS[name](bath=SpinBath(alpha, warm))
    seen = path(state, [Zeeman(field=[0, 0, field])], solver, 1e-3, 2000, 20) / 2.2
    # its own error: 2.5e-6 without damping, 1.5e-4 of first order with
    np.testing.assert_allclose(seen[:, 0], data["spin"][:101], atol=5e-5 if alpha == 0.0 else 2e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_two_damped_spins_of_lammps(name, shared):
    """Two exchange-coupled damped spins against the reference solution (DOP853) all along, with the order of the solver."""
    data = np.load(shared / "reference/lammps/two_spin_exch_dt0.0001.npz")
    alpha, last, points = float(data["alpha"]), 60, 6
    exact = data["ref_dop853"][: last + 1 : last // points]
    term = Exchange(form="constant", J0=float(data["J_eV"]), cutoff=4.0, smoothing=0.0)
    # its law: 1/ħ on the torque of unit vectors, so moments of 2 µB here, and no 1/(1 + α²) at T = 0
    time = float(data["t_ps"][last]) * (1.0 + alpha**2) * HBAR / LAMMPS_HBAR
    errors = []
    finer = {"heun": 4, "runge-kutta": 1}.get(name, 2)
    for steps in (600 * finer, 1200 * finer):
        state = State.create(
            data["cell"], data["positions"], ["Fe"] * 2, [55.845] * 2, pbc=[False] * 3, spins=data["ref_dop853"][0] * 2.0
        )  # fmt: skip
        terms = [Live(term) if name == "live-midpoint" else term]
        seen = path(state, terms, SOLVERS[name](damping=alpha), time / steps, steps, steps // points) / 2.0
        errors.append(np.abs(seen - exact).max())
    assert errors[1] < (1e-5 if name == "runge-kutta" else 2e-2)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(ORDER[name], abs=0.35)
    assert np.abs(exact[-1] - exact[0]).max() > 0.5


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("alpha", [0.1, 2.0])
def test_the_law_at_a_vanishing_temperature_is_that_at_zero(name, alpha):
    """Noise of 1e-14 K leaves the path of T = 0: no factor comes or goes with the noise. Coupled spins in a field."""
    ends = []
    for warm in (None, Temperatures(1e-14)):
        state = bcc(2, seed=3)
        terms = [exchange(), Zeeman(field=[0, 0, 50.0])]
        if name == "live-midpoint":
            terms = [Live(term) for term in terms]
        bath = SpinBath(alpha, warm)
        path(state, terms, SOLVERS[name](bath=bath), 1e-4, 300, 300)
        ends.append(state.spins)
    assert np.abs(ends[0] - bcc(2, seed=3).spins).max() > 0.5
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)


@pytest.mark.parametrize("name", DECK_SOLVERS)
def test_zero_kelvin_is_damping_alone(name):
    """ensemble = "langevin" at 0 K is, bit by bit, "nve" with the same damping: no noise is added."""
    ends = []
    for ensemble, kelvin in (("nve", None), ("langevin", 0.0), ("langevin", {"start": 0.0, "end": 0.0})):
        state = bcc(2, seed=3)
        system = model(state, [exchange()])
        deck = {"ensemble": ensemble, "timestep": 1e-4, "lattice": "frozen", "spin_damping": 0.2, "spin_solver": name}
        deck |= {} if kelvin is None else {"temperature": kelvin}
        integrator = build_integrator(IntegratorParameters(**deck), state, system, 100)
        aux = integrator.init(state, 1)
        for _ in range(100):
            assert integrator.step(state, aux, system).ok
        ends.append(state.spins)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])


@pytest.mark.parametrize("name", ["spherical-midpoint", "semi-implicit", "runge-kutta"])
def test_the_mean_of_many_cold_spins_is_the_path_without_noise(name):
    """The drift of the noisy law: 4000 spins at 2 K, |S|B/k_BT = 148, against the closed form; what is left is O(k_BT/|S|B)."""
    field, alpha, time, steps = 200.0, 0.5, 0.1, 200
    n = 4000
    state = free_spins(["Fe"] * n, np.full(n, 2.2), np.tile([1.0, 0.0, 0.0], (n, 1)))
    solver = SOLVERS[name](bath=SpinBath(alpha, Temperatures(2.0)), tolerance=1e-9)
    seen = path(state, [Zeeman(field=[0, 0, field])], solver, time / steps, steps, 20) / 2.2
    omega = 2.0 * BOHR_MAGNETON * field / HBAR
    exact = closed_form(alpha, omega, time * np.linspace(0.0, 1.0, len(seen)), 0.0)
    error = seen.std(axis=1) / np.sqrt(n)
    assert (np.abs(seen.mean(axis=1) - exact) < 3.0 * error + 0.02).all()
    assert seen[-1, :, 0].std() > 0.01  # there was noise


def test_atoms_without_a_temperature_have_no_bath():
    """spin_damping for all, a temperature for iron only: nickel precesses undamped, and its atoms feel no friction."""
    state = free_spins(["Fe", "Ni"] * 4, np.full(8, 2.0), np.tile([0.8, 0.0, 0.6], (8, 1)))
    state.velocities[:] = [1.0, 0.0, 0.0]
    system = model(state, [Zeeman(field=[0, 0, 50.0])])
    deck = {"ensemble": "langevin", "timestep": 1e-3, "temperature": {"Fe": 300.0}, "spin_damping": 0.5}
    for kelvin in (300.0, 0.0):
        deck = deck | {"temperature": {"Fe": kelvin}, "lattice_friction": 5.0}
        integrator = build_integrator(IntegratorParameters(**deck), state, system)
        aux = integrator.init(state, 1)
        for _ in range(20):
            assert integrator.step(state, aux, system).ok
        iron = state.species == state.symbols.index("Fe")
        np.testing.assert_allclose(state.spins[~iron, 2], 1.2, atol=1e-12)
        np.testing.assert_array_equal(state.velocities[~iron], np.tile([1.0, 0.0, 0.0], (4, 1)))
        assert (np.abs(state.spins[iron, 2] - 1.2) > 1e-3).all() and (state.velocities[iron, 0] != 1.0).all()


@pytest.mark.parametrize(
    "change, key",
    [
        ({"spin_damping": {"Fe": 0.1}, "temperature": {"Ni": 300.0}}, "integrator.temperature"),
        ({"lattice_friction": {"Fe": 1.0}, "lattice_temperature": {"Ni": 300.0}}, "integrator.lattice_temperature"),
    ],
)
def test_a_bath_without_an_atom_is_refused(change, key):
    state = free_spins(["Fe", "Ni"], [2.0, 0.6], [[1, 0, 0], [1, 0, 0]])
    with pytest.raises(InputError, match=f"{key}: no atom has both"):
        deck = {"ensemble": "langevin", "timestep": 1e-3, **change}
        build_integrator(IntegratorParameters(**deck), state, model(state, [Zeeman(field=[0, 0, 1.0])]))
