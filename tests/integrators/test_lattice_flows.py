"""Flows of the lattice against exact answers: crystals of independent oscillators, whose averages are known at any timestep."""

import numpy as np
import pytest
from support.systems import bcc, model, morse

from spinmd.integrators.baths import Temperatures
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.langevin import Langevin
from spinmd.integrators.splitting import Splitting
from spinmd.integrators.thermostats import NoseHooverChain, VelocityRescaling
from spinmd.potentials.base import Term
from spinmd.protocols import OK, Need
from spinmd.state import State
from spinmd.units import AMU, BOLTZMANN

KELVIN, MASS = 300.0, 50.0
UNIT = BOLTZMANN * KELVIN  # eV
STIFFNESS = 2.0  # eV/Å²
OMEGA = np.sqrt(STIFFNESS / (MASS * AMU))  # rad/ps


class Wells(Term):
    """E = Σ_i Σ_a k w² (√(1 + u_ia²/w²) − 1) of displacements u from fixed sites; k u²/2 for w = ∞: an Einstein crystal."""

    selects = ""
    default_name = "wells"
    magnetic = False
    provides = Need.ENERGY | Need.FORCE

    def __init__(self, sites, width=np.inf):
        super().__init__()
        self.sites, self.width = sites, width

    def displacements(self, state):
        return state.unwrapped() - self.sites[state.ids]

    def slope(self, u):
        return STIFFNESS * u / np.sqrt(1.0 + (u / self.width) ** 2)

    def add(self, state, pairs, out, need):
        u = self.displacements(state)
        if Need.ENERGY in need:
            out.energy[0] += float((STIFFNESS * u**2 / (np.sqrt(1.0 + (u / self.width) ** 2) + 1.0)).sum())
        if Need.FORCE in need:
            out.forces -= self.slope(u)
        return OK


def crystal(n, width=np.inf, seed=1):
    """n atoms in wells, at the temperature of the bath where they are harmonic."""
    rng = np.random.default_rng(seed)
    sites = np.stack([4.0 * np.arange(n) + 2.0, np.full(n, 5.0), np.full(n, 5.0)], axis=1)
    state = State.create(
        np.diag([4.0 * n, 10.0, 10.0]), sites + rng.normal(0.0, np.sqrt(UNIT / STIFFNESS), (n, 3)), ["Fe"] * n, np.full(n, MASS),
        velocities=rng.normal(0.0, np.sqrt(UNIT / (MASS * AMU)), (n, 3)),
    )  # fmt: skip
    well = Wells(sites, width)
    return state, well, model(state, [well])


def temperatures(bath, dt, steps, skip, n, width=np.inf, sequence="V R O R V", held=0):
    """(kinetic, configurational): ⟨Σ m v²⟩ and ⟨Σ u ∂E/∂u⟩ over 3 (N − held) k_B T, each with its standard error.

    held = 1: the centre of mass is at rest in its own well, for a bath that leaves it alone.
    """
    state, well, system = crystal(n, width)
    if held:
        state.positions -= well.displacements(state).mean(axis=0)
        state.velocities -= state.centre_velocity()
    integrator = Splitting(sequence, dt, {"R": Drift(), "V": Kick(), "O": bath})
    aux = integrator.init(state, 3)
    values = []
    for step in range(skip + steps):
        assert integrator.step(state, aux, system).ok
        if step >= skip:
            u = well.displacements(state)
            values.append([2.0 * state.kinetic_energy(), float((u * well.slope(u)).sum())])
    values = np.array(values) / (3.0 * (n - held) * UNIT)
    blocks = np.array([block.mean(axis=0) for block in np.array_split(values, 10)])
    return blocks.mean(axis=0), blocks.std(axis=0, ddof=1) / np.sqrt(10)


@pytest.mark.parametrize("scaled", [0.5, 1.0])
def test_langevin_in_harmonic_wells_is_exact_in_configurations(scaled):
    """V R O R V: ⟨k u²⟩ = k_B T at any step, ⟨m v²⟩ = k_B T (1 − (ω h)²/4), Leimkuhler and Matthews (2013), section 2."""
    bath = Langevin(OMEGA, Temperatures(KELVIN))
    (kinetic, configurational), error = temperatures(bath, scaled / OMEGA, 1500, 100, 2000)
    assert abs(configurational - 1.0) < 3.0 * error[1]
    assert abs(kinetic - (1.0 - scaled**2 / 4.0)) < 3.0 * error[0]
    assert (error < 4e-3).all()


@pytest.mark.parametrize("sequence", ["V R O R V", "R V O V R", "O V R V O"])
def test_langevin_in_anharmonic_wells_is_of_second_order(sequence):
    """⟨u ∂E/∂u⟩ = ⟨m v²⟩ = k_B T: the errors fall with the square of the step, or faster."""
    errors = []
    for step in (1.2, 0.6):
        bath = Langevin(OMEGA, Temperatures(KELVIN))
        mean, error = temperatures(bath, step / OMEGA, 800, 100, 2000, width=0.15, sequence=sequence)
        errors.append((abs(mean - 1.0), error))
    (coarse, a), (fine, b) = errors
    assert (fine < 0.3 * coarse + 3.0 * np.hypot(b, 0.25 * a)).all()
    assert coarse.max() > 10.0 * a.max()  # something to see


def test_velocity_rescaling_in_harmonic_wells_is_exact_in_configurations():
    """As under Langevin: the rescaling leaves the canonical distribution in the middle of the step as it is."""
    mean, error = temperatures(VelocityRescaling(KELVIN, 0.05), 0.7 / OMEGA, 3000, 100, 400, held=1)
    assert abs(mean[1] - 1.0) < 3.0 * error[1]
    assert abs(mean[0] - (1.0 - 0.7**2 / 4.0)) < 3.0 * error[0]
    assert (error < 6e-3).all()


@pytest.mark.parametrize("sequence", ["V R V", "R V R", "V R O R V", "O V R V O"])
def test_order_of_deterministic_lattice_flows(sequence):
    """Positions and velocities of bcc iron in a Morse potential, with a Nosé-Hoover chain where there is O: order 2."""

    def final(steps):
        state = bcc(2, temperature=600.0, seed=2)
        system = model(state, [morse()])
        flows = {"R": Drift(), "V": Kick(), "O": NoseHooverChain(300.0, 0.02)}
        integrator = Splitting(sequence, 0.064 / steps, flows)
        aux = integrator.init(state, 0)
        start = integrator.conserved(state, aux, system.evaluate(Need.ENERGY))
        worst = 0.0
        for _ in range(steps):
            integrator.step(state, aux, system)
            worst = max(worst, abs(integrator.conserved(state, aux, system.evaluate(Need.ENERGY)) - start))
        return state.unwrapped().copy(), state.velocities.copy(), worst, state.kinetic_energy()

    best = final(512)
    errors = np.array(
        [[np.abs(a - b).max() for a, b in zip(final(n)[:2], best[:2], strict=True)] for n in (16, 32, 64)]
    )
    slopes = np.polyfit(-np.log(2.0) * np.arange(3), np.log(errors), 1)[0]
    assert slopes == pytest.approx(2.0, abs=0.15)
    accounts = [final(n)[2] for n in (16, 32, 64)]  # of the conserved quantity, the chain's included
    assert np.polyfit(-np.log(2.0) * np.arange(3), np.log(accounts), 1)[0] == pytest.approx(2.0, abs=0.2)
    if "O" in sequence:  # the chain did something
        assert abs(best[3] - bcc(2, temperature=600.0, seed=2).kinetic_energy()) > 0.02


@pytest.mark.parametrize("kind", ["langevin", "velocity-rescaling"])
def test_account_of_stochastic_lattice_baths_is_of_second_order(kind):
    """K + E + heat: what is left of its fluctuation falls with the square of the step, whatever the noise."""
    bath = {
        "langevin": lambda: Langevin(5.0, Temperatures(300.0)),
        "velocity-rescaling": lambda: VelocityRescaling(300.0, 0.05),
    }
    spread = []
    for dt, steps in ((4e-3, 250), (2e-3, 500), (1e-3, 1000)):
        state = bcc(3, temperature=600.0, seed=2)
        system = model(state, [morse()])
        integrator = Splitting("V R O R V", dt, {"R": Drift(), "V": Kick(), "O": bath[kind]()})
        aux = integrator.init(state, 0)
        account = []
        for _ in range(steps):
            integrator.step(state, aux, system)
            account.append(integrator.conserved(state, aux, system.evaluate(Need.ENERGY)))
        spread.append(np.std(account))
        assert abs(aux.globals["lattice_heat"][0]) > 0.02
    assert np.polyfit(-np.log(2.0) * np.arange(3), np.log(spread), 1)[0] == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize("kelvin, warns", [(0.0, True), (100.0, False)])
def test_a_chain_warns_of_a_lattice_at_rest(kelvin, warns, recwarn):
    state = bcc(2, temperature=kelvin)
    integrator = Splitting("V R O R V", 1e-3, {"R": Drift(), "V": Kick(), "O": NoseHooverChain(300.0, 0.1)})
    integrator.init(state, 1)
    assert any("at rest" in str(one.message) for one in recwarn) == warns
