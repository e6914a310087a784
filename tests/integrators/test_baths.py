"""Baths against exact distributions; errors from blocks of correlated samples, three standard errors."""

from functools import partial

import numpy as np
import pytest
from scipy.integrate import quad
from support.live import live_terms
from support.solvers import SOLVERS as ALL
from support.systems import bcc, exchange, model, morse

from spinmd.errors import InputError
from spinmd.integrators.baths import Ramp, SpinBath, Temperatures
from spinmd.integrators.build import build_integrator
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.heun import Heun
from spinmd.integrators.langevin import Langevin
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.splitting import Splitting
from spinmd.integrators.thermostats import NoseHooverChain, VelocityRescaling
from spinmd.potentials.anisotropy import UniaxialAnisotropy
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.units import AMU, BOHR_MAGNETON, BOLTZMANN, HBAR

SOLVERS = {name: partial(make, tolerance=1e-9) for name, make in ALL.items()}


def paramagnet(moments, seed=1, elements=None):
    """Independent spins in random directions."""
    n = len(moments)
    rng = np.random.default_rng(seed)
    spins = rng.normal(size=(n, 3))
    spins *= (np.asarray(moments) / np.linalg.norm(spins, axis=1))[:, None]
    positions = 3.0 * np.stack(np.unravel_index(np.arange(n), (20, 20, n // 400 + 1)), axis=1)
    elements = ["Fe"] * n if elements is None else elements
    return State.create(np.eye(3) * 3.0 * (n // 400 + 21), positions, elements, [55.845] * n, spins=spins)


def sampled(integrator, state, system, steps, skip, sample, seed=1, every=1):
    """(mean, standard error) of ``sample()`` from blocks of the steps after ``skip``."""
    aux = integrator.init(state, seed)
    values = []
    for step in range(steps):
        assert integrator.step(state, aux, system).ok
        if step >= skip and step % every == 0:
            values.append(sample())
    values = np.array(values)
    blocks = np.array([block.mean(axis=0) for block in np.array_split(values, 8)])
    return blocks.mean(axis=0), blocks.std(axis=0, ddof=1) / np.sqrt(8)


def langevin(x):
    return 1.0 / np.tanh(x) - 1.0 / x


@pytest.mark.parametrize("name", SOLVERS)
def test_paramagnets_follow_the_langevin_function(name):
    """Moments of 1, 2.2 and 5 µB in one bath: ⟨e_z⟩ = coth x − 1/x, x = S B µ_B/k_B T."""
    field, kelvin, each = 400.0, 300.0, 1200
    moments = np.repeat([1.0, 2.2, 5.0], each)
    if name == "suzuki-trotter":  # serial and slow
        moments = moments[::4]
    state = paramagnet(moments)
    system = model(state, [Zeeman(field=[0, 0, field])])
    dt = 1.5e-4
    integrator = Splitting("S", dt, {"S": SOLVERS[name](SpinBath(1.0, Temperatures(kelvin)))})

    def sample():
        cosine = state.spins[:, 2] / state.moments
        return np.array([cosine[state.moments == m].mean() for m in (1.0, 2.2, 5.0)])

    # the spins are independent and each relaxes within 0.05 ps: the error of the mean comes from the spread over blocks
    mean, error = sampled(integrator, state, system, 2400, 600, sample, every=4)
    exact = langevin(np.array([1.0, 2.2, 5.0]) * BOHR_MAGNETON * field / (BOLTZMANN * kelvin))
    assert (np.abs(mean - exact) < 3.0 * error + 2.5e-3).all(), (mean - exact, error)
    assert (error < 8e-3).all()


@pytest.mark.parametrize("name", ["spherical-midpoint", "depondt-mertens", "semi-implicit"])
def test_uniaxial_spin_has_boltzmann_distribution(name):
    """E = −K e_z²: histogram of e_z against exp(K z²/k_B T)."""
    kelvin, barrier, n = 300.0, 0.05, 3000
    state = paramagnet(np.full(n, 2.2))
    system = model(state, [UniaxialAnisotropy(K=barrier, axis=[0, 0, 1])])
    integrator = Splitting("S", 2e-4, {"S": SOLVERS[name](SpinBath(1.0, Temperatures(kelvin)))})
    edges = np.linspace(0.0, 1.0, 6)

    def sample():
        return np.histogram(np.abs(state.spins[:, 2]) / 2.2, edges)[0] / n

    mean, error = sampled(integrator, state, system, 2500, 800, sample, every=5)
    weight = np.array(
        [
            quad(lambda z: np.exp(barrier * z * z / (BOLTZMANN * kelvin)), a, b)[0]
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
    )
    assert (np.abs(mean - weight / weight.sum()) < 3.0 * error + 2e-3).all()


def test_noise_has_the_variance_that_the_conventions_state():
    """2 α k_B T ħ/(g |S| h) per component, by element: moment, damping and temperature of each."""
    n = 40000
    state = paramagnet(np.tile([1.0, 3.0], n // 2), elements=["Fe", "Ni"] * (n // 2))
    bath = SpinBath(
        {"Fe": 0.1, "Ni": 0.4}, Temperatures({"Fe": 300.0, "Ni": Ramp(((0.0, 0.0), (10.0, 1000.0)))}), g_factor=1.9
    )
    aux = Splitting("S", 1e-3, {"S": Heun(bath=bath)}).init(state, 1)
    state.clock.time += 4.0
    noise = np.zeros((n, 3))
    assert bath.noise(state, aux, 2e-4, 0, noise)
    for moment, alpha, kelvin in ((1.0, 0.1, 300.0), (3.0, 0.4, 400.0)):
        part = noise[state.moments == moment]
        expected = 2.0 * alpha * BOLTZMANN * kelvin * HBAR / (1.9 * moment * 2e-4)
        assert (part**2).mean() / expected == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / part.size))


@pytest.mark.parametrize("name", SOLVERS)
def test_damped_atoms_among_undamped_ones(name):
    """α by element: undamped spins only precess about a field, damped ones reach the closed form."""
    state = paramagnet(np.full(64, 2.2), elements=["Fe", "Ni"] * 32)
    state.spins[:] = [2.2, 0.0, 0.0]
    field, alpha, time = 200.0, 0.3, 0.1
    system = model(state, [Zeeman(field=[0, 0, field])])
    integrator = Splitting("S", time / 400, {"S": SOLVERS[name](SpinBath({"Ni": alpha}))})
    aux = integrator.init(state, 1)
    for _ in range(400):
        integrator.step(state, aux, system)
    omega = 2.0 * BOHR_MAGNETON * field / HBAR
    nickel = state.species == 1
    np.testing.assert_allclose(state.spins[nickel, 2] / 2.2, np.tanh(alpha * omega * time / (1 + alpha**2)), atol=1e-4)
    np.testing.assert_allclose(state.spins[~nickel, 2], 0.0, atol=1e-12)
    np.testing.assert_allclose(state.spins[~nickel, 0] / 2.2, np.cos(omega * time), atol=2e-3)


LATTICE = {
    "langevin": lambda kelvin: Langevin(5.0, Temperatures(kelvin)),
    "velocity-rescaling": lambda kelvin: VelocityRescaling(kelvin, 0.05),
    "nose-hoover": lambda kelvin: NoseHooverChain(kelvin, 0.1),
}


@pytest.mark.parametrize("name", LATTICE)
def test_kinetic_energy_is_canonical(name):
    """Mean and variance of K: n_f k_B T/2 and n_f (k_B T)²/2."""
    kelvin = 400.0
    state = bcc(3, temperature=200.0)
    system = model(state, [morse()])
    integrator = Splitting("V R O R V", 2e-3, {"R": Drift(), "V": Kick(), "O": LATTICE[name](kelvin)})
    freedom = integrator.degrees_of_freedom(state)
    assert freedom == 3 * state.natoms - (0 if name == "langevin" else 3)
    unit = 0.5 * BOLTZMANN * kelvin * freedom

    def sample():
        ratio = state.kinetic_energy() / unit
        return np.array([ratio, (ratio - 1.0) ** 2 * freedom / 2.0])

    steps = 16000 if name == "nose-hoover" else 8000  # it mixes slowly in a crystal
    mean, error = sampled(integrator, state, system, steps, 1000, sample, every=5)
    assert (np.abs(mean - 1.0) < 3.0 * error + np.array([3e-3, 0.02])).all(), (mean, error)
    assert error[0] < 0.02 and error[1] < 0.25


def test_harmonic_configurations_are_exact():
    """BAOAB: the configurational temperature of the lattice does not depend on the step; Leimkuhler and Matthews (2013)."""
    kelvin = 50.0  # nearly harmonic
    state = bcc(3, temperature=kelvin)
    system = model(state, [morse()])
    integrator = Splitting("V R O R V", 8e-3, {"R": Drift(), "V": Kick(), "O": Langevin(5.0, Temperatures(kelvin))})
    ground = system.evaluate(Need.ENERGY).energy

    def sample():
        return 2.0 * (system.evaluate(Need.ENERGY).energy - ground) / (3.0 * state.natoms - 3.0) / BOLTZMANN

    mean, error = sampled(integrator, state, system, 8000, 2000, sample, every=5)
    assert abs(mean - kelvin) < 3.0 * error + 0.01 * kelvin  # 1 %: what is not harmonic


@pytest.mark.parametrize("live", [False, True])
def test_spins_and_lattice_share_one_temperature(live):
    """A hot lattice and cold spins, baths at one temperature: all three temperatures meet there, and the account of energies,
    system plus what the baths took, closes."""
    kelvin = 300.0
    state = bcc(3, temperature=900.0, aligned=0.02)
    system = model(state, [morse(), exchange()] if not live else live_terms())
    deck = {
        "ensemble": "langevin",
        "timestep": "1 fs",
        "temperature": kelvin,
        "lattice_friction": 5.0,
        "spin_damping": 0.2,
    }
    integrator = build_integrator(IntegratorParameters(**deck), state, system)
    aux = integrator.init(state, 1)

    def conserved():
        return integrator.conserved(state, aux, system.evaluate(Need.ENERGY)) / state.natoms

    start, lattice, spins, account = conserved(), [], [], []
    for step in range(3000):
        assert integrator.step(state, aux, system).ok
        if step % 10 == 0:
            account.append(conserved() - start)
        if step > 1000 and step % 10 == 0:
            lattice.append(state.temperature(integrator.degrees_of_freedom(state)))
            spins.append(system.spin_temperature())
    for values in (lattice, spins):
        blocks = np.array([np.mean(block) for block in np.array_split(values, 8)])
        assert abs(blocks.mean() - kelvin) < 3.0 * blocks.std(ddof=1) / np.sqrt(8) + 6.0
    taken = abs(aux.globals["lattice_heat"][0]) + abs(aux.globals["spin_heat"][0])
    assert taken / state.natoms > 0.02
    assert np.abs(account).max() < (2e-3 if live else 5e-4)


@pytest.mark.parametrize(
    "name", ["midpoint", "semi-implicit", "runge-kutta", "heun", "depondt-mertens", "suzuki-trotter"]
)
def test_account_of_the_spin_bath_closes(name):
    """E plus the heat of the bath stays the same to the order of the solver, noise included."""
    errors = []
    for dt, steps in ((1e-3, 100), (1.25e-4, 800)):
        state = bcc(3, aligned=0.3)
        system = model(state, [exchange()])
        integrator = Splitting("S", dt, {"S": SOLVERS[name](SpinBath(0.1, Temperatures(300.0)))})
        aux = integrator.init(state, 3)
        start = integrator.conserved(state, aux, system.evaluate(Need.ENERGY))
        worst = 0.0
        for _ in range(steps):
            integrator.step(state, aux, system)
            worst = max(worst, abs(integrator.conserved(state, aux, system.evaluate(Need.ENERGY)) - start))
        errors.append(worst / abs(aux.globals["spin_heat"][0]))
    if name in ("midpoint", "suzuki-trotter"):  # exact whatever the step
        assert max(errors) < 1e-6
    else:
        assert errors[1] < 0.2 * errors[0] and errors[1] < 0.05


def test_noise_does_not_depend_on_threads_or_order():
    """The same trajectory with two threads."""
    trajectories = []
    for threads in (1, 2):
        state = bcc(4, temperature=300.0, aligned=0.3)
        from spinmd.model import Model

        system = Model(state, [morse(), exchange()], threads=threads)
        deck = {
            "ensemble": "langevin",
            "timestep": 1e-3,
            "temperature": 300.0,
            "lattice_friction": 2.0,
            "spin_damping": 0.1,
        }
        integrator = build_integrator(IntegratorParameters(**deck), state, system)
        aux = integrator.init(state, 7)
        for _ in range(20):
            integrator.step(state, aux, system)
        trajectories.append(np.concatenate([state.spins, state.velocities, state.positions]))
    np.testing.assert_array_equal(*trajectories)


def test_ramp_and_names():
    ramp = Ramp(((0.0, 100.0), (10.0, 300.0)))
    assert [ramp.at(t) for t in (-1.0, 0.0, 5.0, 10.0, 20.0)] == [100.0, 100.0, 200.0, 300.0, 300.0]
    state = bcc(2)
    with pytest.raises(InputError, match="neither an element"):
        SpinBath({"Co": 0.1}).init(state, Splitting("S", 1e-3, {"S": Heun()}).init(state, 1), 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": None}, "needs a temperature"),
        ({"lattice_friction": 0.0, "spin_damping": 0.0}, "no bath acts"),
        ({"lattice_friction": 0.0, "lattice_temperature": 10.0}, "no bath acts on the lattice"),
        ({"ensemble": "nve"}, "needs ensemble"),
        ({"ensemble": "nve", "lattice_friction": 0.0}, "no bath"),
        ({"ensemble": "nvt"}, "needs ensemble"),
        ({"ensemble": "nvt", "lattice_friction": 0.0, "temperature": {"Fe": 100.0}}, "one temperature"),
        ({"splitting": "V S R S V"}, "does not act"),
        ({"spin_damping": {"Co": 0.1}}, "neither an element"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    state = bcc(2)
    system = model(state, [morse(), exchange()])
    deck = {
        "ensemble": "langevin",
        "timestep": 1e-3,
        "temperature": 300.0,
        "lattice_friction": 2.0,
        "spin_damping": 0.1,
    }
    with pytest.raises(InputError, match=message):
        build_integrator(IntegratorParameters(**(deck | change)), state, system).init(state, 1)


def test_rescaling_keeps_momentum_and_reverses():
    """The chain is reversible: with ω and v reversed it goes back."""
    state = bcc(3, temperature=300.0)
    chain = NoseHooverChain(500.0, 0.05)
    integrator = Splitting("O", 1e-2, {"O": chain})
    system = model(state, [morse()])
    aux = integrator.init(state, 1)
    start = state.velocities.copy()
    for _ in range(20):
        integrator.step(state, aux, system)
    assert not np.allclose(state.velocities, start, rtol=0.05)
    aux.globals["chain_velocity"] *= -1.0
    for _ in range(20):
        integrator.step(state, aux, system)
    np.testing.assert_allclose(state.velocities, start, rtol=1e-9)
    assert np.abs((state.masses[:, None] * state.velocities).sum(axis=0)).max() * AMU < 1e-12


def test_groups_of_a_deck():
    """[groups] in a deck: damping and temperature of the chosen atoms only."""
    import spinmd

    deck = {
        "structure": {"prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665, "supercell": [3, 3, 3],
                      "spins": {"moments": {"Fe": 2.2}, "texture": "ferromagnetic"}},
        "groups": {"hot": ["0:10", 20]},
        "potential": [{"kind": "zeeman", "parameters": {"field": [0.0, 0.0, 1.0]}}],
        "integrator": {"ensemble": "langevin", "timestep": 1e-3, "lattice": "frozen", "temperature": {"hot": 300.0},
                       "spin_damping": {"hot": 0.5}},
        "run": {"steps": 20},
    }  # fmt: skip
    simulation = spinmd.build(deck)
    simulation.run()
    turned = np.abs(simulation.state.original_order(simulation.state.spins)[:, :2]).max(axis=1) > 1e-9
    assert sorted(np.flatnonzero(turned)) == [*range(10), 20]
    deck["groups"] = {"Fe": ["0:10"]}
    with pytest.raises(InputError, match="groups.Fe: Fe is an element"):
        spinmd.build(deck)


def test_quantum_rescaling_cools_the_bath_of_the_spins_alone():
    """T_c (T/T_c)^a below T_c, T above; the paramagnet shows the bath's temperature."""
    given = {"critical_temperature": "1000 K", "exponent": 2.0}
    parameters = IntegratorParameters(
        ensemble="langevin", timestep=1e-4, temperature={"start": 500, "end": 2000, "time": 1.0}, spin_damping=1.0,
        lattice="frozen", spin_rescaling=given,
    )  # fmt: skip
    state = paramagnet(np.full(10, 2.0))
    bath = build_integrator(parameters, state, model(state, [Zeeman(field=[0, 0, 1])]), 10000).spin_solver.bath
    np.testing.assert_allclose([bath.temperatures.at(t)[0] for t in (0.0, 0.2, 1.0)], [250.0, 640.0, 2000.0])
    kelvin, moments = 500.0, np.full(2000, 5.0)
    state = paramagnet(moments)
    system = model(state, [Zeeman(field=[0, 0, 100])])
    parameters = parameters.model_copy(update={"temperature": kelvin})
    integrator = build_integrator(parameters, state, system, 3000)
    found, error = sampled(integrator, state, system, 3000, 1000, lambda: state.spins[:, 2].mean() / 5.0, every=10)
    x = 5.0 * 100 * BOHR_MAGNETON / (BOLTZMANN * 250.0)
    assert abs(found - langevin(x)) < 3.0 * error + 1e-3
    with pytest.raises(InputError, match="spin_damping"):
        build_integrator(
            IntegratorParameters(
                ensemble="langevin", timestep=1e-3, temperature=5, lattice_friction=1, spin_rescaling=given
            ),
            state, system,
        )  # fmt: skip


@pytest.mark.parametrize("thermostat", ["velocity-rescaling", "nose-hoover"])
def test_motion_as_a_whole_is_no_heat(thermostat):
    """A crystal that a Langevin bath has set in motion: its thermostat and its thermometer look at the rest of the motion."""
    state = bcc(2, temperature=300.0)
    system = model(state, [morse()])
    parameters = IntegratorParameters(
        ensemble="nvt", timestep="1 fs", temperature=300, thermostat=thermostat, thermostat_time="20 fs", spins="frozen"
    )
    integrator = build_integrator(parameters, state, system)
    state.velocities += np.array([20.0, -5.0, 3.0])
    drift = state.centre_velocity()
    aux = integrator.init(state, 3)
    warm = []
    for step in range(4000):
        integrator.step(state, aux, system)
        warm.append(state.temperature()) if step > 200 else None
    np.testing.assert_allclose(state.centre_velocity(), drift, atol=1e-10)
    blocks = np.array([block.mean() for block in np.array_split(warm, 8)])
    assert abs(blocks.mean() - 300.0) < 3.5 * blocks.std(ddof=1) / np.sqrt(8) + 3.0
    assert state.temperature(45) > 1000.0  # all of the kinetic energy


def test_the_account_converges_with_the_step_at_the_default_tolerance():
    """Strong noise in short steps: what the iteration leaves must not add up in the account of energies."""
    changes = []
    for dt in (5e-4, 1.25e-4):
        state = bcc(3, aligned=0.5)
        system = model(state, [morse(), exchange()])
        given = {"ensemble": "langevin", "temperature": 300, "spin_damping": 1.0, "lattice_friction": 1.0}
        integrator = build_integrator(IntegratorParameters(timestep=dt, **given), state, system)
        aux = integrator.init(state, 3)

        def account(state=state, integrator=integrator, aux=aux, system=system):
            return integrator.conserved(state, aux, system.evaluate(Need.ENERGY)) / state.natoms

        before = account()
        for _ in range(round(0.1 / dt)):
            integrator.step(state, aux, system)
        changes.append(1e3 * (account() - before))
    assert abs(changes[1]) < 0.03 and abs(changes[0]) < 0.2


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"thermostat": "nose-hoover"}, "thermostat"),
        ({"thermostat_time": 0.1}, "thermostat_time"),
        ({"move": "metropolis"}, "move"),
        ({"exchange": 3}, "exchange"),
        ({"lattice": "frozen"}, "lattice_friction"),
        ({"spins": "frozen"}, "spin_damping"),
    ],
)
def test_what_nothing_would_read_is_refused(given, place):
    state = bcc(2)
    parameters = {
        "ensemble": "langevin",
        "timestep": 1e-3,
        "temperature": 300,
        "lattice_friction": 1,
        "spin_damping": 0.1,
    }
    with pytest.raises(InputError, match="leave it out") as caught:
        build_integrator(IntegratorParameters(**parameters, **given), state, model(state, [morse(), exchange()]))
    assert caught.value.place == f"integrator.{place}"
