"""Steps as graphs, by a stand-in that repeats what a step launched: nothing that changes from step to step may be fixed in it."""

import numpy as np
import pytest
from support.deepspin_models import make_random_model
from support.device_movers import EXCHANGE, MORSE, ON_SITE, OPEN, deck
from support.recorded_graph import RecordedGraph, launches

import spinmd
from spinmd.potentials.deepspin.model_file import write_model

DIPOLE = {"kind": "dipole", "parameters": {"cutoff": 3.0}}
BIQUADRATIC = {"kind": "biquadratic", "parameters": {"form": "constant", "K0": 0.002, "cutoff": 3.0}}
WAVE = {"kind": "zeeman", "parameters": {"field": {"form": "sine", "amplitude": [0.0, 300.0, 0.0], "frequency": 90.0}}}
RAMP = {"start": 10, "end": 900, "time": 0.01}
CASES = {
    "everything changes": (
        [MORSE, EXCHANGE, WAVE],
        {"ensemble": "langevin", "temperature": RAMP, "lattice_friction": 5.0, "spin_damping": 0.1},
    ),
    "ends with a drift": ([MORSE, EXCHANGE], {"splitting": "R V S V R"}),
    "monte carlo": ([EXCHANGE, DIPOLE, *ON_SITE], {"ensemble": "monte-carlo", "temperature": 300, "lattice": "frozen"}),
    "couplings of all kinds": ([MORSE, EXCHANGE, DIPOLE, BIQUADRATIC], {}),
    "nothing but spins": ([EXCHANGE, DIPOLE], {"lattice": "frozen"}),
    "two solves at the end": ([MORSE, EXCHANGE], {"splitting": "S V R V S"}),
}


def device_run(table: dict, graphs: bool):
    from spinmd.device import on_device

    run = on_device(spinmd.build(spinmd.load_deck(table), threads=1, output=False))
    run.graphs = graphs
    return run


@pytest.mark.parametrize("name", CASES)
def test_a_graph_gives_what_single_launches_give(name, device, monkeypatch):
    if device == "simulator":
        monkeypatch.setattr("spinmd.cuda.run.StepGraph", RecordedGraph)
    monkeypatch.setattr("spinmd.cuda.run.WARM", 1)
    monkeypatch.setattr("spinmd.integrators.cuda.midpoint.LAUNCHED", 2)
    potentials, integrator = CASES[name]
    structure = {**OPEN, "supercell": [2, 1, 1]}
    runs = [device_run(deck(potentials, structure, **integrator), graphs) for graphs in (False, True)]
    for step in range(4):
        seen = []
        for run in runs:
            with run.running():
                run.step()
                if step > 1:  # with looks of reporters between repetitions of the graph
                    found = run.view.evaluate(spinmd.Need.ENERGY | spinmd.Need.FORCE)
                    seen.append((found.energies, found.forces, run.state.spins.host(), run.state.positions.host()))
        for one, other in zip(*seen, strict=True) if seen else ():
            assert np.array_equal(one, other), (name, step)
    assert [run.captured for run in runs] == [False, True]
    if device == "simulator":
        (graph,), work, single = runs[1]._graphs.values(), [], []
        with runs[0].running(), launches(work, single):
            runs[0].step()
        assert graph.kernels == single, "a graph has the launches of a step and no more"


def test_a_graph_of_a_model_with_live_fields(device, monkeypatch, tmp_path):
    """DeepSPIN in a field that changes, with noise; a look between repetitions, which evaluates energies."""
    if device == "simulator":
        monkeypatch.setattr("spinmd.cuda.run.StepGraph", RecordedGraph)
    monkeypatch.setattr("spinmd.cuda.run.WARM", 1)
    monkeypatch.setattr("spinmd.integrators.cuda.live_midpoint.LAUNCHED", 2)
    file = tmp_path / "model.h5"
    write_model(make_random_model(neuron=(3, 6), axis=3, fitting=(7,), sel=60), file)
    potentials = [{"kind": "deepspin", "parameters": {"model": str(file)}}, WAVE]
    bath = {"ensemble": "langevin", "temperature": 100, "lattice_friction": 5.0, "spin_damping": 0.1, "tolerance": 1e-4}
    table = deck(potentials, {**OPEN, "supercell": [1, 1, 1]}, **bath)
    runs = [device_run(table, graphs) for graphs in (False, True)]
    for _ in range(4):
        for run in runs:
            with run.running():
                run.step()
                run.view.evaluate(spinmd.Need.ENERGY)
        for name in ("positions", "velocities", "spins"):
            assert np.array_equal(*(getattr(run.state, name).host() for run in runs)), name
    assert [run.captured for run in runs] == [False, True]


def test_a_step_that_cannot_be_captured_is_launched(device, monkeypatch):
    """Whatever class the error has; the run goes on as if nothing had been tried."""
    from spinmd.cuda import run as module

    class Refused:
        def __init__(self, launch):
            launch()
            raise Exception("of a driver")  # as those of numba and cuda.core are: of no class of their own

    monkeypatch.setattr(module, "StepGraph", Refused)
    monkeypatch.setattr(module, "WARM", 1)
    monkeypatch.setattr("spinmd.integrators.cuda.midpoint.LAUNCHED", 2)
    table = deck([MORSE, EXCHANGE], {**OPEN, "supercell": [1, 1, 1]})
    plain, tried = (device_run(table, graphs) for graphs in (False, True))
    for run in (plain, tried):
        with run.running():
            for _ in range(3):
                run.step()
    assert not tried.graphs and not tried.captured
    assert np.array_equal(plain.state.positions.host(), tried.state.positions.host())
    assert tried.state.clock.step == 3 == int(tried.state.ticks.host()[0])


def test_lists_that_outgrow_their_buffers_in_a_graph(device, monkeypatch):
    """A hot crystal in lists without room to spare: the graph goes, the steps are repeated, and a new graph goes on."""
    from spinmd.cuda import lists
    from spinmd.run import RunResult

    if device == "simulator":
        monkeypatch.setattr("spinmd.cuda.run.StepGraph", RecordedGraph)
    monkeypatch.setattr("spinmd.cuda.run.WARM", 1)
    monkeypatch.setattr("spinmd.cuda.run.EVERY", 4)
    grow, grown = lists.DeviceLists.grow, []
    monkeypatch.setattr(lists.DeviceLists, "grow", lambda self, status: grown.append(1) or grow(self, status))
    table = deck([MORSE, EXCHANGE], {**OPEN, "temperature": 3000}, ensemble="nve", timestep="2 fs")
    ends = []
    for tight in (False, True):
        run = device_run(table, True)
        if tight:
            there = run.model.lists
            for slot, (radius, one) in enumerate(there.lists.items()):
                needed = int(there.status.host()[lists.NEEDED_NEIGHBOURS + slot])
                there.lists[radius] = lists.DeviceList(radius, len(one.count), needed, there)
            run.model.grown()
            there.demand()
        with run.running():
            run.go(16, [], "", True, None, False, RunResult())
        assert run.captured and bool(grown) == tight
        ends.append([getattr(run.host[0], name) for name in ("positions", "velocities", "spins")])
    for one, other in zip(*ends, strict=True):
        assert np.array_equal(one, other)
