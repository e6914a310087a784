"""Integrators, spin solvers and baths on the device take the steps of the host, and move nothing between host and device."""

import pytest
from support.device_movers import EXCHANGE, MORSE, ON_SITE, OPEN, RIGID, Both, deck

SOLVERS = (
    "midpoint", "spherical-midpoint", "suzuki-trotter", "depondt-mertens", "semi-implicit", "heun", "runge-kutta",
)  # fmt: skip
NOISE = {"ensemble": "langevin", "spin_damping": 0.1, "temperature": 200}


@pytest.mark.parametrize("solver", SOLVERS)
def test_spins_in_every_kind_of_coupling(solver):
    pair = Both(deck(RIGID, lattice="frozen", spin_solver=solver))
    pair.step(2)
    pair.compare()


def test_levels_of_a_sequential_sweep(monkeypatch):
    """On a rigid lattice of many atoms the sweep is made of levels; its order is the same."""
    from spinmd.integrators.cuda import suzuki_trotter

    monkeypatch.setattr(suzuki_trotter, "THIN", 0)
    pair = Both(deck(RIGID, lattice="frozen", spin_solver="suzuki-trotter"))
    pair.step(2)
    assert len(pair.mover.flows["S"]._ends) > 1
    pair.compare()


@pytest.mark.parametrize("solver", SOLVERS)
def test_damping_and_noise_of_spins(solver):
    pair = Both(deck([RIGID[0], ON_SITE[0]], lattice="frozen", spin_solver=solver, fixed_spins=["Co"], **NOISE))
    before = pair.host.spins.copy()
    pair.step(2)
    pair.compare()
    held = pair.host.species == pair.host.symbols.index("Co")
    assert (pair.state.spins.host()[held] == before[held]).all()


@pytest.mark.parametrize("solver", ["midpoint", "suzuki-trotter"])
def test_more_than_one_block(solver):
    pair = Both(deck(RIGID[:1], {"supercell": [3, 3, 1]}, lattice="frozen", spin_solver=solver, spin_damping=0.1))
    pair.step(2)
    pair.compare()


@pytest.mark.parametrize("solver", ["midpoint", "suzuki-trotter", "heun", "runge-kutta"])
def test_moving_lattice(solver):
    pair = Both(deck([MORSE, EXCHANGE], {} if solver == "midpoint" else OPEN, spin_solver=solver))
    pair.step(2)
    pair.compare()


STILL = {"spins": "frozen", "thermostat_time": 0.01, "ensemble": "nvt"}
BATHS = {
    "langevin": {
        "ensemble": "langevin", "lattice_friction": {"Fe": 5.0}, "temperature": 600, "frozen_atoms": ["Co"], "spins": "frozen",
    },
    "ramps": {
        "ensemble": "langevin", "lattice_friction": 5.0, "spin_damping": {"Co": 0.1}, "lattice_temperature": {"Fe": 200, "Co": 0},
        "spin_temperature": {"start": 300, "end": 900, "time": "3 fs"}, "spin_solver": "depondt-mertens",
        "spin_rescaling": {"critical_temperature": 1000, "exponent": 2.876},
    },
    "velocity-rescaling": {**STILL, "temperature": {"start": 300, "end": 900, "time": "4 fs"}},
    "nose-hoover": {**STILL, "thermostat": "nose-hoover", "temperature": {"start": 300, "end": 900, "time": "4 fs"}},
    "held": {
        "ensemble": "nvt", "temperature": 600, "frozen_atoms": ["Co"], "fixed_spins": ["Fe"], "thermostat_time": 0.01,
        "spin_solver": "heun",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BATHS)
def test_baths(name):
    terms = [MORSE] if BATHS[name].get("spins") == "frozen" else [MORSE, EXCHANGE]
    pair = Both(deck(terms, OPEN, **BATHS[name]))
    before = pair.host.positions.copy()
    pair.step(4)
    pair.compare()
    if "frozen_atoms" in BATHS[name]:
        held = pair.host.species == pair.host.symbols.index("Co")
        assert (pair.state.positions.host()[held] == before[held]).all()
        assert (pair.state.velocities.host()[held] == 0.0).all()


@pytest.mark.parametrize("lattice", ["moving", "frozen"])
def test_a_field_that_changes_in_time_does_work(lattice):
    field = {"form": "sine", "amplitude": [0, 90, 10], "frequency": "50 THz"}
    terms = [MORSE, EXCHANGE, {"kind": "zeeman", "parameters": {"field": field}}]
    pair = Both(deck(terms, OPEN, lattice=lattice, spin_solver="semi-implicit" if lattice == "moving" else "midpoint"))
    pair.step(3)
    assert abs(pair.aux.globals["drive_work"][0]) > 1e-4
    pair.compare()


def test_a_solve_that_was_taken_back_leaves_nothing():
    """What an iteration finds of an earlier solve may be no number: of steps with lists that were too short, which are repeated."""
    pair = Both(deck([EXCHANGE], OPEN, lattice="frozen"))
    for name in ("_g", "_old_g", "_x", "_w0", "_residual"):
        getattr(pair.mover.flows["S"], name).fill(float("nan"))
    pair.step(1)
    pair.compare()
