"""Lattice and spins in one system: three thermometers in every part agree, with errors from several seeds; and heat flows to one
temperature, with the account of energies closed."""

import numpy as np
import pytest
from support.live import Live
from support.systems import bcc, exchange, model, morse

from spinmd.integrators.build import build_integrator
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.potentials.dmi import DMI
from spinmd.potentials.exchange import Exchange
from spinmd.protocols import Need
from spinmd.units import AMU, BOLTZMANN

KELVIN = 300.0


class Thermometers:
    """Numerators and denominators of the temperatures of a system whose magnetic terms are linear in each spin.

    kinetic         ⟨Σ m v²⟩ / 3N
    configurational ⟨Σ F²⟩ / ⟨tr ∂²E/∂R∂R⟩, the trace from forces at ± random displacements (Hutchinson)
    spins           ⟨Σ |S × F|²⟩ / ⟨2 Σ S·F⟩
    """

    names = ("kinetic", "configurational", "spins")

    def __init__(self, state, terms, seed):
        self.state, self.terms = state, terms
        self.copy = state.copy()
        self.model = model(self.copy, terms())
        self.rng = np.random.default_rng(seed)
        self.sums = []

    def forces(self, positions):
        self.copy.positions[:] = positions
        self.model.moved(positions=True)
        order = np.argsort(self.copy.ids)
        return self.model.evaluate(Need.FORCE).forces[order]

    def read(self):
        state = self.state
        order = np.argsort(state.ids)
        spins, positions = state.spins[order], state.unwrapped()[order]
        self.copy.permute(np.argsort(self.copy.ids))
        self.copy.images[:] = 0
        self.copy.spins[:], self.copy.positions[:] = spins, positions
        self.model.moved(positions=True, spins=True)
        evaluation = self.model.evaluate(Need.FORCE | Need.FIELD)
        fields, forces = evaluation.fields, evaluation.forces
        torque2 = (np.cross(self.copy.spins, fields) ** 2).sum()
        stiff = 2.0 * (self.copy.spins * fields).sum()
        force2 = (forces**2).sum()
        probe = self.rng.normal(size=forces.shape)
        step = 1e-4
        curvature = -((self.forces(positions + step * probe) - self.forces(positions - step * probe)) * probe).sum() / (
            2 * step
        )
        mv2 = AMU * (state.masses[:, None] * state.velocities**2).sum()
        self.sums.append([mv2, 3 * state.natoms, force2, curvature, torque2, stiff])

    def kelvin(self):
        sums = np.array(self.sums).mean(axis=0)
        return sums[::2] / sums[1::2] / BOLTZMANN


def terms():
    return [morse(), exchange()]


def live():
    return [morse(), Live(exchange())]


def run(make, deck, seed, steps, skip, cells=3, temperature=2 * KELVIN, aligned=0.3, every=10, look=None):
    """Temperatures after ``skip`` steps."""
    state = bcc(cells, temperature=temperature, aligned=aligned, seed=seed)
    system = model(state, make())
    integrator = build_integrator(IntegratorParameters(**deck), state, system)
    aux = integrator.init(state, seed)
    meters = Thermometers(state, make, seed)
    account = []
    for step in range(steps):
        assert integrator.step(state, aux, system).ok
        if step >= skip and step % every == 0:
            meters.read()
        if step % every == 0:
            account.append(integrator.conserved(state, aux, system.evaluate(Need.ENERGY)) / state.natoms)
    return meters.kelvin(), np.array(account), aux


BATHS = {
    "both": {"lattice_friction": 10.0, "spin_damping": 0.3},
    "substeps": {"lattice_friction": 10.0, "spin_damping": 0.3, "splitting": "V S R O R S V"},
    "explicit": {"lattice_friction": 10.0, "spin_damping": 0.3, "spin_solver": "depondt-mertens", "timestep": 5e-4},
    "rescaling": {"ensemble": "nvt", "thermostat_time": 0.05, "spin_damping": 0.3},
}


@pytest.mark.parametrize("name, make", [("both", terms), ("both", live)])
def test_every_thermometer_shows_the_temperature_of_the_baths(name, make):
    """Kinetic and configurational of the lattice, and of the spins: three seeds, three standard errors."""
    deck = {"ensemble": "langevin", "timestep": 1e-3, "temperature": KELVIN, **BATHS[name]}
    kelvin = np.array([run(make, deck, seed, 1000, 300, every=20)[0] for seed in (1, 2, 3)])
    mean, error = kelvin.mean(axis=0), kelvin.std(axis=0, ddof=1) / np.sqrt(3)
    # three seeds know their own scatter badly: not less than what 54 atoms and 0.9 ps have
    assert (np.abs(mean - KELVIN) < 3.0 * np.maximum(error, 4.0)).all(), dict(
        zip(Thermometers.names, mean, strict=True)
    )
    assert (error < 12.0).all()


@pytest.mark.physics
@pytest.mark.parametrize("make", [terms, live])
@pytest.mark.parametrize("name", BATHS)
def test_equipartition_within_a_per_cent(name, make):
    """The same with eight seeds and longer runs, for several pairs of baths and splittings."""
    deck = {"ensemble": "langevin", "timestep": 1e-3, "temperature": KELVIN, **BATHS[name]}
    steps = round(8.0 / deck["timestep"])
    kelvin = np.array([run(make, deck, seed, steps, steps // 10, every=20)[0] for seed in range(1, 9)])
    if name == "rescaling":  # 3N − 3 degrees of freedom
        kelvin[:, 0] *= 54 / 53
    mean, error = kelvin.mean(axis=0), kelvin.std(axis=0, ddof=1) / np.sqrt(8)
    assert (np.abs(mean - KELVIN) < 3.0 * error + 0.005 * KELVIN).all(), dict(
        zip(Thermometers.names, mean, strict=True)
    )
    assert (error < 4.0).all()


def steep():
    """Exchange and DMI that fall fast with distance, so that lattice and spins exchange heat within picoseconds. Isotropic
    exchange alone would need far longer near the ferromagnet, where magnons only scatter off the vibrations."""
    return [
        morse(),
        Exchange(form="polynomial", J0=0.6, power=6, cutoff=5.0, smoothing=0.2),
        DMI(form="polynomial", D0=1.5, power=6, cutoff=5.0, direction="bond"),
    ]


def test_a_hot_lattice_and_cold_spins_meet_without_any_bath():
    """NVE without damping: the three temperatures come to one value, and the energy stays."""
    deck = {"timestep": 1e-3}
    cold, _, _ = run(steep, deck, 3, 60, 0, temperature=900.0, aligned=0.02)
    assert cold[2] < 30.0 and cold[0] > 400.0
    kelvin, account, _ = run(steep, deck, 3, 5000, 3000, temperature=900.0, aligned=0.02)
    kelvin[0] *= 54 / 53  # 3N − 3 degrees of freedom
    assert kelvin == pytest.approx(kelvin.mean(), rel=0.1)
    assert 300.0 < kelvin.mean() < 480.0
    assert np.ptp(account) < 2e-4


@pytest.mark.physics
@pytest.mark.parametrize("make", [steep, lambda: [morse(), *map(Live, steep()[1:])]])
@pytest.mark.parametrize("deck", [{"lattice_friction": 10.0}, {"spin_damping": 0.3}])
def test_heat_flows_through_the_part_with_a_bath(deck, make):
    """Only one part has a bath, the other comes to its temperature through the coupling; seeds and three standard errors."""
    deck = {"ensemble": "langevin", "timestep": 1e-3, "temperature": KELVIN, **deck}
    kelvin = []
    for seed in range(1, 5):
        seen, account, _ = run(make, deck, seed, 20000, 8000, temperature=900.0, aligned=0.02, every=20)
        # the spherical midpoint's error with noise adds up over 20 ps: first order in the step
        assert np.ptp(account) < (4e-3 if "spin_damping" in deck else 5e-4)
        kelvin.append(seen)
    mean, error = np.mean(kelvin, axis=0), np.std(kelvin, axis=0, ddof=1) / 2.0
    if "lattice_friction" not in deck:  # 3N − 3 degrees of freedom
        mean[0] *= 54 / 53
    assert (np.abs(mean - KELVIN) < 3.0 * np.maximum(error, 3.0)).all(), dict(
        zip(Thermometers.names, mean, strict=True)
    )
