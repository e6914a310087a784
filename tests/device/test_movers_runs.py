"""Whole runs on the device through the Simulation: thermo table and frames are those of the host."""

import numpy as np
from support.device_movers import EXCHANGE, MORSE, OPEN, Both, deck
from support.devices import run_both


def assert_same_run(table: dict, steps: int, tmp_path, tolerance: float = 1e-10) -> None:
    """Every column and frame, relative to its largest number."""
    host, device = run_both(table, steps, tmp_path)
    assert host.keys() == device.keys()
    for name, theirs in host.items():
        mine = device[name]
        assert mine.shape == theirs.shape, name
        if theirs.dtype.kind == "f":
            assert (np.isnan(mine) == np.isnan(theirs)).all(), name
            scale = max(float(np.nanmax(np.abs(theirs), initial=0.0)), 1e-3)
            assert np.nanmax(np.abs(mine - theirs), initial=0.0) <= tolerance * scale, name


def test_stages(tmp_path):
    """The heat of one stage is carried on to the next; ramps begin with theirs."""
    stages = [
        {"name": "heat", "integrator": {"ensemble": "langevin", "lattice_friction": 5.0, "spin_damping": 0.1,
                                        "temperature": {"start": 10, "end": 900}}, "run": {"steps": 2}},
        {"name": "hold", "integrator": {"ensemble": "nvt", "temperature": 900, "frozen_atoms": ["Co"]}, "run": {"steps": 1}},
        {"name": "measure", "integrator": {"ensemble": "nve", "spin_solver": "runge-kutta"}, "run": {"steps": 1}},
    ]  # fmt: skip
    assert_same_run({**deck([MORSE, EXCHANGE], OPEN, spin_solver="heun"), "stage": stages}, 2, tmp_path)


def test_a_solve_that_needs_more_than_was_launched_is_repeated(tmp_path, monkeypatch):
    from spinmd.integrators.cuda import midpoint

    monkeypatch.setattr(midpoint, "LAUNCHED", 2)
    assert_same_run(deck([EXCHANGE], OPEN, lattice="frozen"), 2, tmp_path)


def test_no_more_iterations_are_launched_than_solves_need():
    pair = Both(deck([EXCHANGE], OPEN, lattice="frozen"))
    solver = pair.mover.flows["S"]
    solver.launched = 40
    pair.step(2)
    assert not pair.mover.grow()
    assert 4 <= solver.launched <= 12
    pair.step(3)
    pair.compare()
    for _ in range(3):  # and stays there
        before = solver.launched
        assert not pair.mover.grow() and solver.launched == before
