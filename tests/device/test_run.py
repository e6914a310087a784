"""Whole runs on the device: what they give, restarts, changes of device, overflow of lists, errors."""

import numpy as np
import pytest
from support.devices import run_both

import spinmd
from spinmd.errors import DivergedError

EXCHANGE = {"form": "bethe-slater", "a": 0.02726, "b": 0.2171, "d": 1.841, "cutoff": 3.4, "offset": True}


def deck(root, **integrator):
    return {
        "structure": {"prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665, "supercell": [2, 2, 1], "displacement": 0.05,
                      "temperature": 300.0, "spins": {"moments": {"Fe": 2.2}, "texture": "cone", "angle": 40}},
        "potential": [{"kind": "eam", "parameters": {"file": str(root / "inputs/potentials/Fe_mm.eam.fs")}},
                      {"kind": "exchange", "parameters": EXCHANGE}],
        "integrator": {"ensemble": "langevin", "timestep": "1 fs", "temperature": 300.0, "lattice_friction": 5.0,
                       "spin_damping": 0.1, **integrator},
        "run": {"steps": 4, "seed": 3},
    }  # fmt: skip


def go(deck, path, device, steps=None, **output):
    full = {**deck, "output": {"file": str(path), "thermo": 1, "trajectory": 2, "checkpoint": 2, **output}}
    with spinmd.build(spinmd.load_deck(full), device=device, threads=1, force=True) as simulation:
        simulation.run(steps)
        return {name: np.asarray(column) for name, column in simulation.thermo.items()}


def test_a_run_is_that_of_the_host(root, tmp_path):
    host, device = run_both(deck(root), 2, tmp_path)
    for name, values in host.items():
        scale = max(np.nanmax(np.abs(values)), 1e-6)
        assert np.allclose(device[name], values, rtol=0, atol=1e-11 * scale, equal_nan=True), name


def test_a_step_transfers_nothing(root):
    from spinmd.cuda.arrays import reset_transfers, transfers
    from spinmd.cuda.model import DeviceModel
    from spinmd.cuda.state import DeviceState
    from spinmd.integrators.cuda import device_mover
    from spinmd.potentials.cuda import device_term

    simulation = spinmd.build(spinmd.load_deck(deck(root)), threads=1, output=False)
    aux = simulation.integrator.init(simulation.state, 3)
    state = DeviceState(simulation.state)
    model, mover = DeviceModel(state, simulation.model, device_term), device_mover(simulation.integrator, state, aux)
    mover.step(model)
    reset_transfers()
    mover.step(model)
    assert (transfers.to_host, transfers.to_device) == (0, 0)
    state.positions.host()
    assert transfers.to_host == 1 and transfers.bytes_to_host == 8 * 24


def test_a_report_brings_over_what_it_writes(root, tmp_path):
    """A row of the thermo table takes a few numbers; histories of the spin solver, the most there is, go to checkpoints only."""
    from spinmd.cuda.arrays import reset_transfers, transfers

    moved = {}
    for name, output in {"rows": {"checkpoint": 0}, "checkpoints": {"checkpoint": 1}}.items():
        reset_transfers()
        go(deck(root), tmp_path / f"{name}.h5", "cuda", 4, trajectory=0, **output)
        moved[name] = transfers.bytes_to_host
    history = 2 * 4 * 24 * 8  # two solves in a step, four fields of eight atoms
    assert moved["checkpoints"] >= moved["rows"] + 3 * history


@pytest.mark.parametrize("second", ["cuda", "cpu"])
def test_a_restart_goes_on_as_if_the_run_had_never_stopped(root, tmp_path, second):
    """Bit for bit on the same device; to rounding on another one."""
    whole = go(deck(root), tmp_path / "whole.h5", "cuda")
    go(deck(root), tmp_path / "part.h5", "cuda", 2)
    with spinmd.resume(tmp_path / "part.h5", 2, device=second, threads=1) as simulation:
        simulation.run()
        rest = {name: np.asarray(column) for name, column in simulation.thermo.items()}
    for name, values in whole.items():
        if second == "cuda":
            assert np.array_equal(rest[name], values, equal_nan=True), name
        else:
            assert np.allclose(rest[name], values, rtol=1e-10, atol=1e-10, equal_nan=True), name


def test_a_run_in_pieces_is_bitwise_the_same(root):
    """Lists included, which are rebuilt in every step or so with this skin; their number is that of the host."""
    own = {**deck(root), "neighbours": {"skin": 0.02}}
    found = {}
    for name, device, pieces in (("host", "cpu", [4]), ("whole", "cuda", [4]), ("pieces", "cuda", [2, 2])):
        with spinmd.build(spinmd.load_deck(own), device=device, threads=1, output=False) as simulation:
            for steps in pieces:
                simulation.run(steps)
        found[name] = simulation
    for name in ("positions", "velocities", "spins"):
        assert np.array_equal(getattr(found["whole"].state, name), getattr(found["pieces"].state, name)), name
    rebuilds = [one.summary["list_rebuilds"] for one in found.values()]
    assert rebuilds[0] > 1 and rebuilds == [rebuilds[0]] * 3


def test_lists_that_outgrow_their_buffers_cost_nothing_but_time(root, tmp_path, monkeypatch):
    from spinmd.cuda import lists

    normal = go(deck(root), tmp_path / "a.h5", "cuda", 2)
    monkeypatch.setattr(lists, "FIRST", 0.2)
    small = go(deck(root), tmp_path / "b.h5", "cuda", 2)
    for name, values in normal.items():
        assert np.array_equal(small[name], values, equal_nan=True), name


def test_a_run_that_diverges_says_so_in_the_words_of_the_host(root, tmp_path):
    hot = deck(root, timestep="300 fs", spin_damping=0.0, lattice_friction=0.0, ensemble="nve", temperature=None)
    hot["integrator"] = {k: v for k, v in hot["integrator"].items() if v is not None and k in ("ensemble", "timestep")}
    hot["structure"] = {**hot["structure"], "displacement": 0.4}
    said = []
    for device in ("cpu", "cuda"):
        with pytest.raises((DivergedError, spinmd.InputError)) as caught:
            go(hot, tmp_path / f"{device}.h5", device, 60)
        said.append(str(caught.value))
    assert said[0].split()[:2] == said[1].split()[:2], said


def test_mixed_precision_is_near_and_keeps_the_energy(root, tmp_path):
    """float32 pairs: forces to 1e-5 of float64's, sums in float64."""
    double = deck(root, ensemble="nve", temperature=None, lattice_friction=None, spin_damping=None)
    double["integrator"] = {"ensemble": "nve", "timestep": "1 fs"}
    mixed = {**double, "run": {**double["run"], "precision": "mixed"}}
    a, b = go(double, tmp_path / "a.h5", "cuda", 2), go(mixed, tmp_path / "b.h5", "cuda", 2)
    assert 0.0 < np.abs(a["total_energy"] - b["total_energy"]).max() < 1e-4
    assert np.ptp(b["conserved"]) < 2.0 * np.ptp(a["conserved"]) + 1e-6
    with pytest.raises(spinmd.InputError, match="for the GPU"):
        go(mixed, tmp_path / "c.h5", "cpu", 1)
