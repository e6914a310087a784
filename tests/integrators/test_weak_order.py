"""Noise of the spins against exact answers, and how fast the error of averages falls with the timestep."""

import numpy as np
import pytest
from support.ensembles import bonded, chains, paramagnet, reduced_step, stationary_mean
from support.live import Live
from support.solvers import SOLVERS
from support.systems import model

from spinmd.integrators.baths import SpinBath, Temperatures
from spinmd.integrators.splitting import Splitting
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need
from spinmd.units import BOLTZMANN, HBAR

KELVIN = 300.0


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("sequence, alpha", [("S", 1.0), ("S S", 0.3), ("S S S", 2.0)])
def test_free_spins_diffuse_at_the_exact_rate(name, sequence, alpha):
    """No field: ⟨S(t)·S(0)⟩ = S² exp(−2 D t), D = α/(1 + α²) (g/ħ) k_B T/|S|, whatever the sub-steps.

    The rate itself, not only where it leads: it sees a wrong sub-step, factors 2 and 1 + α², and a moment left out.
    """
    g_factor, n = 2.0023, 1000 if name == "suzuki-trotter" else 4000  # the sweep is serial and slow
    moments = np.repeat([1.0, 2.2, 5.0], n)
    state = chains(3 * n, 1)
    state.spins *= (moments / 2.2)[:, None]
    state.moments[:] = moments
    start = state.spins / moments[:, None]
    nothing = Zeeman(field=[0.0, 0.0, 0.0])
    system = model(state, [Live(nothing) if name == "live-midpoint" else nothing])
    bath = SpinBath(alpha, Temperatures(KELVIN), g_factor=g_factor)
    dt = reduced_step(0.06, KELVIN, alpha, moment=2.2, g_factor=g_factor)
    integrator = Splitting(sequence, dt, {"S": SOLVERS[name](bath=bath, tolerance=1e-6)})
    aux = integrator.init(state, 5)
    steps = 8
    for _ in range(steps):
        integrator.step(state, aux, system)
    cosine = (state.spins / moments[:, None] * start).sum(axis=1)
    rate = 2.0 * alpha / (1.0 + alpha**2) * g_factor / HBAR * BOLTZMANN * KELVIN / moments
    for moment in (1.0, 2.2, 5.0):
        of = moments == moment
        exact = np.exp(-rate[of][0] * steps * dt)
        bias = 1.5 * exact * (rate[of][0] * dt) ** 2 * steps / sequence.count("S")  # first order in the step
        error = cosine[of].std() / np.sqrt(n)
        assert abs(cosine[of].mean() - exact) < 3.0 * error + bias


def solver(name, alpha=1.0):
    return SOLVERS[name](bath=SpinBath(alpha, Temperatures(KELVIN)), tolerance=1e-5)


@pytest.mark.parametrize("name", ["semi-implicit", "heun", "runge-kutta"])
def test_error_of_a_paramagnet_falls_with_the_timestep(name):
    """⟨e_z⟩ against the Langevin function: first order, and less than x of its value."""
    errors = []
    for x, steps in ((0.2, 100), (0.1, 200)):
        case = paramagnet(5000, KELVIN, 2.0)
        error, uncertainty = stationary_mean(case, solver(name), reduced_step(x, KELVIN, 1.0), steps, round(2.0 / x))
        assert abs(error) < 1.6 * x * case[3] + 3.0 * uncertainty
        errors.append((error, uncertainty))
    (coarse, a), (fine, b) = errors
    assert abs(fine) > 5.0 * b  # it can be seen
    assert np.log2(coarse / fine) == pytest.approx(1.0, abs=0.4 + 3.0 * (b / fine + a / coarse))


@pytest.mark.parametrize("name", ["spherical-midpoint", "semi-implicit", "depondt-mertens"])
def test_bonds_of_open_chains_follow_the_langevin_function(name):
    """⟨e_i·e_{i+1}⟩ = coth x − 1/x, x = J/k_BT: coupled spins with an exact answer."""
    case = bonded(600, 4, KELVIN, 2.0)
    error, uncertainty = stationary_mean(case, solver(name), reduced_step(0.02, KELVIN, 1.0), 400, 150, every=2)
    assert abs(error) < 3.0 * uncertainty + 0.02 * case[3]
    assert uncertainty < 0.01


@pytest.mark.physics
@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "live-midpoint"])
@pytest.mark.parametrize("kind", ["field", "chain"])
def test_weak_order_of_averages(name, kind):
    """Slope of the error of a thermal average against the timestep, with errors of a few per cent; Richardson's
    extrapolation of two timesteps is exact within three standard errors and the next order."""
    results = {}
    for x in (0.025, 0.05):
        case = paramagnet(16000, KELVIN, 2.0) if kind == "field" else bonded(4000, 4, KELVIN, 2.0)
        results[x] = stationary_mean(case, solver(name), reduced_step(x, KELVIN, 1.0), 1000, round(3.0 / x))
    (fine, b), (coarse, a) = results[0.025], results[0.05]
    assert abs(2.0 * fine - coarse) < 3.0 * np.hypot(2.0 * b, a) + 2.0 * 0.05**2
    if name == "spherical-midpoint" and kind == "field":  # no term of first order
        assert abs(fine) < 3.0 * b + 0.02 * 0.05
    else:
        assert np.log2(coarse / fine) == pytest.approx(1.0, abs=0.2 + 3.0 * (b / abs(fine) + a / abs(coarse)))


@pytest.mark.physics
@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_exact_averages_at_small_timesteps(alpha):
    """Field, chain and the two together for the default solver, x = 0.01, at several dampings."""
    for case in (paramagnet(8000, KELVIN, 1.0), bonded(2000, 4, KELVIN, 3.0), bonded(2000, 4, KELVIN, -2.0)):
        dt = reduced_step(0.01 * min(1.0, alpha), KELVIN, alpha)
        name = "spherical-midpoint"
        error, uncertainty = stationary_mean(
            case, solver(name, alpha), dt, 1500, round(4.0 / min(1.0, alpha) / 0.01), every=3
        )
        assert abs(error) < 3.0 * uncertainty + 0.01 * abs(case[3])


def test_exchange_of_the_chains_couples_neighbours_only():
    """What the exact answer of ``bonded`` takes for granted: energy −J per parallel bond, none between chains."""
    state, system, sample, _ = bonded(9, 3, KELVIN, 2.0)
    state.spins[:] = [0.0, 0.0, 2.2]
    system.moved(spins=True)
    assert sample() == pytest.approx(1.0)
    energy = system.evaluate(Need.ENERGY).energy
    assert energy == pytest.approx(-2.0 * BOLTZMANN * KELVIN * 9 * 2)
