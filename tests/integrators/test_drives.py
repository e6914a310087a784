"""Fields that change in time, in dynamics: exact answers, order, the account of energy, restart; the frozen and the fixed."""

import numpy as np
import pytest
from support.live import live_terms
from support.solvers import SOLVERS
from support.systems import bcc, exchange, model, morse

import spinmd
from spinmd.errors import InputError
from spinmd.integrators.baths import SpinBath, Temperatures
from spinmd.integrators.build import build_integrator
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.splitting import Splitting
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.units import BOHR_MAGNETON, HBAR

GAMMA = 2.0 * BOHR_MAGNETON / HBAR  # rad/(ps T)


def one_spin():
    return State.create(np.eye(3) * 10.0, [[1.0, 1.0, 1.0]], ["Fe"], [55.845], spins=[[0.0, 0.0, 2.0]])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_rotating_field_gives_rabi_oscillations_to_second_order(name):
    """Resonance: B₀ along z and B₁ turning with γB₀ against the sense of the precession's field: s_z = cos(γ B₁ t)."""
    static, rotating, time = 20.0, 30.0, 0.15
    field = {"form": "rotating", "amplitude": [rotating, 0, 0], "frequency": GAMMA * static / (2 * np.pi),
             "offset": [0, 0, static]}  # fmt: skip
    errors = []
    for steps in (40, 80, 160):
        state = one_spin()
        system = model(state, [Zeeman(field=field)])
        integrator = Splitting("S", time / steps, {"S": SOLVERS[name]()})
        aux = integrator.init(state, 1)
        for _ in range(steps):
            assert integrator.step(state, aux, system).ok
        errors.append(abs(state.spins[0, 2] / 2.0 - np.cos(GAMMA * rotating * time)))
    assert errors[-1] < 3e-4
    slope = np.polyfit(-np.log(2.0) * np.arange(3), np.log(errors), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("sequence", ["V S R S V", "V R S R V", "R V S V R"])
def test_the_account_of_energy_takes_in_the_work_of_the_field(sequence, live):
    """E + K − work is constant to second order, though E alone changes by far more."""
    spread, change = [], []
    for steps in (60, 120):
        state = bcc(3, seed=3)
        drive = Zeeman(field={"form": "sine", "amplitude": [0, 40, 200], "frequency": "8 THz"})
        terms = [morse(), *(live_terms() if live else [exchange()]), drive]
        system = model(state, terms)
        flows = {"R": Drift(), "V": Kick(), "S": (SOLVERS["live-midpoint"] if live else SOLVERS["midpoint"])()}
        integrator = Splitting(sequence, 0.06 / steps, flows)
        aux = integrator.init(state, 1)
        account, energy = [], []
        for _ in range(steps):
            assert integrator.step(state, aux, system).ok
            evaluation = system.evaluate(Need.ENERGY)
            account.append(integrator.conserved(state, aux, evaluation))
            energy.append(evaluation.energy + state.kinetic_energy())
        spread.append(np.ptp(account))
        change.append(np.ptp(energy))
    assert spread[1] < 1e-2 * change[1]
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.3)


def deck(**integrator):
    return {
        "structure": {
            "prototype": "bcc", "element": "Fe", "lattice_constant": 2.87, "supercell": [4, 4, 4], "temperature": 300,
            "spins": {"moments": {"Fe": 2.2}, "texture": "random"},
        },
        "potential": [
            {"kind": "morse", "parameters": {"depth": 0.4174, "alpha": 1.3885, "r0": 2.845, "cutoff": 5.3}},
            {"kind": "exchange", "parameters": {"form": "constant", "J0": 0.02, "cutoff": 3.4}},
        ],
        "groups": {"bottom": ["0:32"], "edge": [0, 40, 127]},
        "integrator": {"timestep": "1 fs", **integrator},
        "run": {"steps": 30, "seed": 4},
    }  # fmt: skip


BATHS = {
    "nve": {},
    "langevin": {"ensemble": "langevin", "temperature": 300, "lattice_friction": 5.0, "spin_damping": 0.1},
    "rescaling": {"ensemble": "nvt", "temperature": 300},
    "chain": {"ensemble": "nvt", "temperature": 300, "thermostat": "nose-hoover"},
}


@pytest.mark.parametrize("name", BATHS)
def test_frozen_atoms_stand_still_and_are_not_counted(name):
    with spinmd.build(deck(frozen_atoms=["bottom"], **BATHS[name])) as simulation:
        state = simulation.state
        before = state.original_order(state.positions).copy()
        simulation.run()
        held = np.zeros(state.natoms, bool)
        held[:32] = True
        moved = np.abs(state.original_order(state.unwrapped()) - before).max(axis=1)
        assert np.all(moved[held] < 1e-12) and np.all(moved[~held] > 1e-4)
        assert not state.original_order(state.velocities)[held].any()
        assert simulation.integrator.degrees_of_freedom(state, simulation.aux) == 3 * (128 - 32)
        row = simulation.thermo["lattice_temperature"][-1]
        assert row == pytest.approx(state.temperature(3 * 96))
        account = simulation.thermo["conserved"]
        assert np.ptp(account) < 0.02


def test_a_thermostat_holds_the_temperature_of_what_moves():
    """The mean over a run of the 96 atoms that move; with the degrees of freedom of all 128 it would be 400 K."""
    given = deck(frozen_atoms="bottom", ensemble="nvt", temperature=300, thermostat_time="10 fs", spins="frozen")
    with spinmd.build(given, ["run.steps=1500"]) as simulation:
        simulation.run()
        values = simulation.thermo["lattice_temperature"][40:]
        assert values.mean() == pytest.approx(300.0, abs=15.0)


@pytest.mark.parametrize("name", [n for n in SOLVERS if n != "live-midpoint"])
@pytest.mark.parametrize("hot", [False, True])
def test_fixed_spins_do_not_turn_by_a_bit_and_act_on_the_others(name, hot):
    bath = BATHS["langevin"] if hot else {}
    with spinmd.build(deck(fixed_spins=["edge"], spin_solver=name, **bath)) as simulation:
        state = simulation.state
        before = state.original_order(state.spins).copy()
        simulation.run()
        after = state.original_order(state.spins)
        held = np.zeros(128, bool)
        held[[0, 40, 127]] = True
        assert np.array_equal(after[held], before[held])
        assert np.all(np.abs(after - before).max(axis=1)[~held] > 1e-4)
        if name in ("midpoint", "spherical-midpoint", "suzuki-trotter"):
            assert np.ptp(simulation.thermo["conserved"]) < (0.3 if hot else 0.02)


def test_fixed_spins_with_a_live_potential():
    state = bcc(3, seed=3)
    system = model(state, [morse(), *live_terms()])
    parameters = IntegratorParameters(timestep="1 fs", fixed_spins=["edge"])
    mask = np.zeros(state.natoms, bool)
    mask[:5] = True
    integrator = build_integrator(parameters, state, system, 10, {"edge": mask})
    aux, before = integrator.init(state, 1), state.original_order(state.spins).copy()
    for _ in range(10):
        assert integrator.step(state, aux, system).ok
    after = state.original_order(state.spins)
    assert np.array_equal(after[mask], before[mask]) and np.all((after != before).any(axis=1)[~mask])


@pytest.mark.parametrize("move", ["heat-bath", "metropolis"])
def test_monte_carlo_leaves_fixed_spins_alone(move):
    given = deck(ensemble="monte-carlo", lattice="frozen", temperature=500, move=move, fixed_spins=["edge"])
    del given["integrator"]["timestep"]
    with spinmd.build(given) as simulation:
        before = simulation.state.original_order(simulation.state.spins).copy()
        simulation.run(5)
        after = simulation.state.original_order(simulation.state.spins)
        assert np.array_equal(after[[0, 40, 127]], before[[0, 40, 127]])
        assert (after != before).any(axis=1).sum() == 125


def test_the_spin_temperature_counts_the_spins_that_turn():
    """Random fixed spins have huge torques; the others are cold."""
    given = deck(fixed_spins=["bottom"], lattice="frozen", ensemble="langevin", temperature=50, spin_damping=1.0)
    with spinmd.build(given, ["run.steps=3000"]) as simulation:
        simulation.run()
        assert simulation.thermo["spin_temperature"][150:].mean() == pytest.approx(50.0, rel=0.15)


@pytest.mark.parametrize(
    ("integrator", "message"),
    [
        ({"frozen_atoms": ["Co"]}, "neither an element of the structure nor a group"),
        ({"fixed_spins": ["Fe"]}, "every spin is held"),
        ({"frozen_atoms": ["Fe"]}, "every atom is held"),
        ({"frozen_atoms": ["bottom"], "lattice": "frozen"}, "holds all of them already"),
    ],
)
def test_what_cannot_be_held_is_refused(integrator, message):
    with pytest.raises(InputError, match=message) as caught:
        spinmd.build(deck(**integrator))
    assert "integrator." in str(caught.value)


def test_monte_carlo_refuses_a_field_that_changes():
    given = deck(ensemble="monte-carlo", lattice="frozen", temperature=500)
    del given["integrator"]["timestep"]
    given["potential"].append(
        {"kind": "zeeman", "parameters": {"field": {"form": "sine", "amplitude": [0, 0, 1], "frequency": 1}}}
    )
    with pytest.raises(InputError, match="Monte Carlo has no time"):
        spinmd.build(given)


def test_a_driven_run_with_held_parts_goes_on_bitwise(tmp_path):
    """Stopped in the middle and resumed, with another number of threads; the clock of the drive goes on over stages."""
    given = deck(frozen_atoms="bottom", fixed_spins="edge", **BATHS["langevin"])
    field = {"form": "points", "times": [0, 0.02, 0.05], "fields": [[0, 0, 50], [80, 0, 0], [0, 90, 0]]}
    given["potential"].append({"kind": "zeeman", "parameters": {"field": field}})
    given["stage"] = [{"run": {"steps": 20}}]
    given["output"] = {"file": str(tmp_path / "run.h5"), "thermo": 5, "trajectory": 10, "checkpoint": 10}
    with spinmd.build(given) as whole:
        whole.run()
    given["output"]["file"] = str(tmp_path / "part.h5")
    asked = iter([False] * 17 + [True] * 99)
    with spinmd.build(given) as part:
        part.run(stop=lambda: next(asked))
        assert part.state.clock.step == 17
    with spinmd.resume(tmp_path / "part.h5", threads=2) as rest:
        rest.run()
    for name in ("positions", "velocities", "spins"):
        assert np.array_equal(getattr(rest.state, name), getattr(whole.state, name)), name
    assert rest.state.clock.step == 50
    assert np.array_equal(rest.thermo["conserved"], whole.thermo["conserved"])


def test_noise_and_drive_together_keep_the_account():
    state = one_spin()
    system = model(state, [Zeeman(field={"form": "ramp", "start": [0, 0, 50], "end": [50, 0, -50], "time": 0.2})])
    bath = SpinBath(0.1, Temperatures(20.0))
    integrator = Splitting("S", 1e-4, {"S": Midpoint(tolerance=1e-12, bath=bath)})
    aux = integrator.init(state, 1)
    account = []
    for _ in range(2500):
        integrator.step(state, aux, system)
        account.append(integrator.conserved(state, aux, system.evaluate(Need.ENERGY)))
    assert np.ptp(account) < 1e-9


def test_a_stage_with_another_ensemble_leaves_out_the_baths():
    """Equilibrate with baths, then measure without: neither temperature nor damping is inherited, all else is."""
    given = deck(**BATHS["langevin"] | {"temperature": {"start": 10, "end": 300}}, spin_solver="depondt-mertens")
    measure = {"integrator": {"ensemble": "nve"}, "run": {"steps": 5}}
    again = {"integrator": {"temperature": {"Fe": 100}}, "run": {"steps": 5}}
    sweeps = {"integrator": {"ensemble": "monte-carlo", "lattice": "frozen", "temperature": 50}, "run": {"steps": 5}}
    given["stage"] = [measure, again, sweeps]
    with spinmd.build(given) as simulation:
        stages = [stage.integrator for stage in simulation.deck.stages()]
        assert stages[1].temperature is None and stages[1].spin_damping == 0.0 and stages[1].lattice_friction == 0.0
        assert stages[1].spin_solver == "depondt-mertens" and stages[1].timestep == 0.001
        assert stages[2].ensemble == "langevin" and stages[2].temperature == {"Fe": 100.0}
        assert stages[3].timestep is None
        simulation.run()
        assert simulation.state.clock.step == 45


def test_the_account_goes_on_from_stage_to_stage(tmp_path):
    """Hot, driven, cold, without a bath: no jump between stages, nor behind a stop at the end of one."""
    given = deck(**BATHS["langevin"])
    drive = {"form": "ramp", "start": [0, 0, 0], "end": [0, 0, 100], "time": 0.06}
    given["potential"].append({"kind": "zeeman", "parameters": {"field": drive}})
    cold = {"integrator": {"temperature": 10}, "run": {"steps": 30}}
    given["stage"] = [cold, {"integrator": {"ensemble": "nve"}, "run": {"steps": 30}}]
    given["output"] = {"file": str(tmp_path / "run.h5"), "thermo": 5, "trajectory": 0, "checkpoint": 0}
    with spinmd.build(given) as whole:
        whole.run()
    account, energy = whole.thermo["conserved"], whole.thermo["total_energy"]
    assert np.ptp(account) < 0.05 * np.ptp(energy) and np.ptp(energy) > 1.0
    assert abs(account[-1] - energy[-1]) > 0.5
    given["output"]["file"] = str(tmp_path / "part.h5")
    with spinmd.build(given) as part:
        part.run(stop=lambda: part.state.clock.step == 60)
    with spinmd.resume(tmp_path / "part.h5") as rest:
        rest.run()
    assert np.array_equal(rest.thermo["conserved"], account)
