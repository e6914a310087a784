"""What must not change, and what must change as LAMMPS says: invariants, energy, reversal, threads, a reference trajectory."""

import tracemalloc

import numba
import numpy as np
import pytest
from support.systems import bcc, every_spin_term, exchange, model, morse

from spinmd.errors import InputError
from spinmd.integrators.build import build_integrator
from spinmd.integrators.depondt_mertens import DepondtMertens
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.heun import Heun
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.splitting import Splitting
from spinmd.integrators.suzuki_trotter import SuzukiTrotter
from spinmd.model import Model
from spinmd.potentials.anisotropy import CubicAnisotropy, UniaxialAnisotropy
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.eam import EAM
from spinmd.potentials.exchange import Exchange
from spinmd.protocols import Need
from spinmd.state import State

SOLVERS = {
    "midpoint": lambda **k: Midpoint(**{"tolerance": 1e-12, **k}),
    "spherical-midpoint": lambda **k: Midpoint(**{"tolerance": 1e-12, "spherical": True, **k}),
    "suzuki-trotter": lambda **k: SuzukiTrotter(**k),
}
EXPLICIT = {"depondt-mertens": lambda **k: DepondtMertens(**k), "heun": lambda **k: Heun(**k)}
ALL = SOLVERS | EXPLICIT


def trajectory(state, terms, sequence, dt, steps, solver, every=1, threads=1):
    """Conserved energy per atom (meV) at every ``every`` steps; the state moves."""
    system = Model(state, terms, threads=threads)
    integrator = Splitting(sequence, dt, {"R": Drift(), "V": Kick(), "S": solver})
    aux = integrator.init(state, 0)
    energies = []
    for step in range(steps + 1):
        if step % every == 0:
            energies.append(integrator.conserved(state, aux, system.evaluate(Need.ENERGY)))
        if step < steps:
            assert integrator.step(state, aux, system).ok
    return 1000.0 * np.array(energies) / state.natoms


@pytest.mark.parametrize("name", ALL)
def test_lengths_total_spin_and_momentum_are_conserved(name):
    """|S_i| always; ΣS by the midpoint (isotropic exchange on a moving lattice); Σ m v."""
    state = bcc(3, seed=2)
    before = state.copy()
    trajectory(state, [morse(), exchange()], "V S R S V", 1e-3, 200, ALL[name]())
    np.testing.assert_allclose(np.linalg.norm(state.spins, axis=1), np.linalg.norm(before.spins, axis=1), rtol=1e-12)
    np.testing.assert_allclose(state.masses @ state.velocities, 0.0, atol=1e-8)
    change = np.abs(state.spins.sum(axis=0) - before.spins.sum(axis=0)).max()
    if "midpoint" in name:
        assert change < 1e-8
    assert np.abs(state.spins - before.spins).max() > 0.5  # they did move


@pytest.mark.parametrize("name", SOLVERS)
def test_energy_error_falls_with_the_square_of_the_timestep(name):
    terms = [morse(), *every_spin_term()]
    errors = []
    for dt in (1e-3, 5e-4, 2.5e-4):
        energy = trajectory(bcc(2, seed=3), terms, "V S R S V", dt, round(0.05 / dt), SOLVERS[name]())
        errors.append(np.abs(energy - energy[0]).max())
    slope = np.polyfit(np.log([1.0, 0.5, 0.25]), np.log(errors), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.25)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("terms", ["anisotropy", "biquadratic", "all"])
def test_terms_quadratic_in_one_spin_do_not_drift(name, terms):
    """Rigid lattice, random spins, 2 ps at 1 fs. A sweep about the field of the old direction loses 1 meV/atom/ps and more here."""
    kinds = {
        "anisotropy": [exchange(), UniaxialAnisotropy(K=0.0005, axis=[0, 0, 1])],
        "biquadratic": [exchange(), Biquadratic(form="bethe-slater", a=0.006, b=0.03, d=1.48, cutoff=3.4)],
        "all": every_spin_term(),
    }
    energy = trajectory(bcc(3, seed=5), kinds[terms], "S", 1e-3, 2000, SOLVERS[name](), every=10)
    time = np.arange(len(energy)) * 0.01
    assert abs(np.polyfit(time, energy, 1)[0]) < 0.005
    assert np.ptp(energy) < 0.5


@pytest.mark.parametrize("name", SOLVERS)
def test_time_reversal_returns_to_the_start(name):
    """v → −v and S → −S run the same trajectory backwards; all terms here are even in the spins."""
    state = bcc(2, seed=6)
    before = state.copy()
    terms = [morse(), *every_spin_term()[:5]]
    trajectory(state, terms, "V S R S V", 1e-3, 60, SOLVERS[name]())
    assert np.abs(state.spins - before.spins).max() > 0.5
    state.velocities *= -1.0
    state.spins *= -1.0
    trajectory(state, terms, "V S R S V", 1e-3, 60, SOLVERS[name]())
    # the sweep visits the atoms forwards and backwards, so that it is its own reverse
    np.testing.assert_allclose(-state.spins, before.spins, atol=1e-6)
    np.testing.assert_allclose(state.unwrapped(), before.unwrapped(), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name != "suzuki-trotter"])
def test_damping_lowers_the_energy_and_the_account_closes(name):
    """Energy plus the heat taken by damping is constant to the order of the integrator."""
    energies = {}
    for dt in (1e-3, 5e-4):
        state = bcc(2, seed=7, temperature=0.0)
        system = model(state, every_spin_term())
        integrator = Splitting("S", dt, {"S": ALL[name](damping=0.1)})
        aux = integrator.init(state, 0)
        first = system.evaluate(Need.ENERGY).energy
        for _ in range(round(0.1 / dt)):
            integrator.step(state, aux, system)
        evaluation = system.evaluate(Need.ENERGY)
        assert evaluation.energy < first - 0.1
        energies[dt] = abs(integrator.conserved(state, aux, evaluation) - first)
    assert energies[1e-3] < (1e-4 if name == "midpoint" else 5e-2)
    assert energies[1e-3] / energies[5e-4] > 3.5


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_any_number_of_threads_gives_the_same_bits():
    results = []
    for threads in (1, 2):
        state = bcc(8, seed=8)  # 1024 atoms: four blocks
        trajectory(
            state, [morse(), *every_spin_term()], "V S R S V", 1e-3, 10, Midpoint(tolerance=1e-8), threads=threads
        )
        results.append(state)
    for array in ("positions", "velocities", "spins"):
        np.testing.assert_array_equal(getattr(results[0], array), getattr(results[1], array))


def test_sorting_in_space_does_not_change_the_physics():
    """2662 atoms are sorted by the model, the same atoms in a scrambled order too: equal trajectories atom by atom."""
    finals = []
    for scramble in (False, True):
        state = bcc(11, seed=9)
        if scramble:
            state.permute(np.random.default_rng(0).permutation(state.natoms))
        trajectory(state, [morse(), exchange()], "V S R S V", 1e-3, 20, Midpoint(tolerance=1e-10), every=20)
        finals.append([state.original_order(a) for a in (state.unwrapped(), state.spins)])
    for one, other in zip(*finals, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_reference_trajectory_of_lammps(name, shared):
    """250 atoms, EAM + exchange, from ../shared: energies after 50 and 100 fs at a shorter step than LAMMPS's 1 fs."""
    data = np.load(shared / "reference/lammps/sld250_nve_dt0.001.npz")
    state = State.create(
        data["cell"], data["positions0"], ["Fe"] * 250, np.full(250, float(data["mass"])), velocities=data["velocities0_A_ps"],
        spins=2.0 * data["spins0"],  # LAMMPS's precession does not divide by the moment: 2 µB give 1/ħ here
    )  # fmt: skip
    terms = [EAM(file=shared / "data/potentials/Fe_mm.eam.fs"), exchange(smoothing=0.0)]
    system = model(state, terms)
    integrator = Splitting("V S R S V", 2.5e-4, {"R": Drift(), "V": Kick(), "S": ALL[name]()})
    aux = integrator.init(state, 0)
    columns = str(data["columns"]).split()
    rows = {int(row[0]): dict(zip(columns, row, strict=True)) for row in data["thermo"]}
    assert system.evaluate(Need.ENERGY).energy == pytest.approx(rows[0]["pe"], abs=1e-9)
    for step in (50, 100):
        for _ in range(200):
            integrator.step(state, aux, system)
        # both have errors of second order in the step; chaos has not set in
        assert system.evaluate(Need.ENERGY).energy == pytest.approx(rows[step]["pe"], abs=5e-3)
        assert state.kinetic_energy() == pytest.approx(rows[step]["ke"], rel=1e-3)
        magnetisation = state.spins.sum(axis=0) / 2.0 / 250
        # its length is about 1; the sweep of LAMMPS does not conserve it exactly
        np.testing.assert_allclose(magnetisation, [rows[step][key] for key in ("mx", "my", "mz")], atol=3e-4)
    assert abs(rows[100]["pe"] - rows[0]["pe"]) > 0.1


def test_steps_allocate_nothing_that_stays_and_little_that_goes():
    """Python-side memory of a step is a few small objects, independent of the number of atoms."""
    peaks = []
    for cells in (6, 12):
        state = bcc(cells, seed=1)
        system = model(state, [morse(), exchange()])
        integrator = Splitting("V S R S V", 1e-3, {"R": Drift(), "V": Kick(), "S": Midpoint()})
        aux = integrator.init(state, 0)
        system.attach(aux)
        for _ in range(5):
            integrator.step(state, aux, system)
        builds = system.lists.builds
        tracemalloc.start()
        for _ in range(5):
            integrator.step(state, aux, system)
        current, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert system.lists.builds == builds  # a list build may allocate; there was none
        peaks.append(peak)
        assert current < 20_000
    assert max(peaks) < 60_000


@pytest.mark.parametrize("terms", ["bilinear", "fourth order"])
def test_energy_conserving_midpoint_conserves_the_energy_of_frozen_couplings(terms):
    """Rigid lattice: whatever the step, the energy stays to the tolerance; the spherical form fluctuates by O(h²)."""
    kinds = [term for term in every_spin_term()[:4] if terms == "fourth order" or term.name != "biquadratic"]
    if terms == "fourth order":
        kinds.append(CubicAnisotropy(K1=0.002))
    energy = trajectory(bcc(2, seed=5), kinds, "S", 2e-3, 100, SOLVERS["midpoint"]())
    assert np.ptp(energy) < 1e-8
    spherical = trajectory(bcc(2, seed=5), kinds, "S", 2e-3, 100, SOLVERS["spherical-midpoint"]())
    assert 1e-3 < np.ptp(spherical) < 5.0


def test_spherical_midpoint_is_symplectic():
    """The Jacobian of one step keeps the symplectic form of the spheres: Σ_i m_i e_i·(a_i × b_i) for tangent vectors a, b."""
    reference = bcc(1, seed=3, temperature=0.0)
    rng = np.random.default_rng(0)

    def step(spins, solver):
        state = reference.copy()
        state.spins[:] = spins
        system = model(state, [exchange(), UniaxialAnisotropy(K=0.01, axis=[0, 1, 1])])
        integrator = Splitting("S", 4e-3, {"S": solver})
        integrator.step(state, integrator.init(state, 0), system)
        return state.spins

    def moved(tangent, solver):
        eps = 1e-5
        ends = []
        for sign in (1.0, -1.0):
            spins = reference.spins + sign * eps * tangent
            ends.append(step(spins * 2.2 / np.linalg.norm(spins, axis=1)[:, None], solver))
        return (ends[0] - ends[1]) / (2.0 * eps)

    def form(spins, a, b):
        return np.einsum("ia,ia->", spins, np.cross(a, b))

    def defect(make):
        tangents = []
        for _ in range(2):
            v = rng.normal(size=reference.spins.shape)
            tangents.append(np.cross(v, reference.spins / 2.2))
        before = form(reference.spins, *tangents)
        after = form(step(reference.spins, make()), *(moved(t, make()) for t in tangents))
        return abs(after - before) / abs(before)

    assert max(defect(lambda: Midpoint(tolerance=1e-14, spherical=True)) for _ in range(3)) < 1e-8
    assert (
        max(defect(lambda: Midpoint(tolerance=1e-14)) for _ in range(3)) > 1e-6
    )  # the check sees a method that is not


def test_sweep_joins_several_terms_of_one_kind():
    """Two exchange terms of half strength turn the spins as one of full strength, and the lists may differ in length."""
    states = []
    for terms in (
        [exchange()],
        [Exchange(form="bethe-slater", a=0.5 * 0.02726, b=0.2171, d=1.841, cutoff=3.4) for _ in range(2)],
    ):
        state = bcc(3, seed=5)
        trajectory(state, terms, "S", 1e-3, 20, SOLVERS["suzuki-trotter"](), every=20)
        states.append(state.spins)
    np.testing.assert_allclose(*states, atol=1e-10)


class LiveExchange(Exchange):
    """Exchange that does not freeze: the spin solve asks it for fields, as it asks a neural potential."""

    def freeze(self, state, pairs):
        return None


def test_live_potentials_move_spins_as_frozen_ones_do():
    """A term without frozen couplings is solved by the spherical midpoint, with the fields at each iterate."""
    parameters = {"form": "bethe-slater", "a": 0.02726, "b": 0.2171, "d": 1.841, "cutoff": 3.4}
    finals = []
    for kind, solver in ((LiveExchange, "midpoint"), (Exchange, "spherical-midpoint")):
        state = bcc(3, seed=4)
        terms = [morse(), kind(**parameters), UniaxialAnisotropy(K=0.001, axis=[0, 0, 1])]
        trajectory(state, terms, "V S R S V", 1e-3, 30, SOLVERS[solver](), every=30)
        finals.append(state)
    np.testing.assert_allclose(finals[0].spins, finals[1].spins, atol=1e-9)
    np.testing.assert_allclose(finals[0].velocities, finals[1].velocities, atol=1e-9)


def test_sweep_refuses_live_potentials():
    state = bcc(2)
    system = model(state, [LiveExchange(form="constant", J0=0.01, cutoff=3.0)])
    with pytest.raises(InputError, match=r"integrator\.spin_solver.*midpoint"):
        build_integrator(
            IntegratorParameters(timestep=1e-3, lattice="frozen", spin_solver="suzuki-trotter"), state, system
        )
