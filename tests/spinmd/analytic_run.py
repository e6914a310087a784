"""A "run" that is a formula: everything its file should hold at a step is known without integrating anything.

Used by the tests of the output file; each loads it by its path, since test folders are no packages.
"""

import h5py
import numpy as np

from spinmd.h5md import TrajectoryWriter, read_thermo
from spinmd.output import OutputParameters
from spinmd.protocols import Aux, Evaluation, Frame
from spinmd.state import State

NATOMS = 5
COLUMNS = (("step", "1"), ("time", "ps"), ("energy", "eV"))
ORTHOGONAL = np.diag([6.0, 7.0, 8.0])
TRICLINIC = np.array([[6.0, 0.0, 0.0], [1.5, 7.0, 0.0], [-1.0, 2.0, 8.0]])
FRAMES = "particles/trajectory"


def field_of(name: str, step: int) -> np.ndarray:
    """(N, 3) values of a per-atom quantity at a step, in the original order."""
    rng = np.random.default_rng(["positions", "velocities", "spins", "forces", "fields"].index(name))
    start, rate = rng.normal(size=(2, NATOMS, 3))
    return 3.0 * start + 0.01 * step * rate  # positions leave the cell: they are stored unwrapped


class Model:
    """Forces and fields in the present order of the state, and a history of neighbour lists."""

    def __init__(self, state):
        self.state = state

    def evaluate(self, need):
        step, ids = self.state.clock.step, self.state.ids
        forces, fields = field_of("forces", step)[ids], field_of("fields", step)[ids]
        return Evaluation(("a",), np.zeros(1), forces, fields, np.zeros((3, 3)))

    def list_history(self):
        return {"positions": self.state.positions + 1.0, "builds": np.int64(7)}


def make_state(cell=TRICLINIC, pbc=(True, True, True)) -> State:
    state = State.create(
        cell, np.zeros((NATOMS, 3)), ["Fe", "Fe", "O", "Fe", "O"], [55.8, 55.9, 16.0, 55.7, 16.1], pbc=pbc,
        spins=np.array([[0, 0, 2.2], [0, 0, 2.1], [0, 0, 0], [0, 0, 2.0], [0, 0, 0]]),
    )  # fmt: skip
    state.permute(np.array([3, 1, 4, 0, 2]))
    return set_state(state, 0)


def set_state(state: State, step: int) -> State:
    """Put the state where the analytic run is at this step; its cell breathes."""
    state.clock.step, state.clock.time = step, 0.001 * step
    unwrapped = field_of("positions", step)[state.ids]
    state.images[:] = np.floor(unwrapped @ np.linalg.inv(state.cell)).astype(np.int32) * state.pbc
    state.positions[:] = unwrapped - state.images @ state.cell
    state.velocities[:] = field_of("velocities", step)[state.ids]
    state.spins[:] = field_of("spins", step)[state.ids]
    return state


def frame_of(state, step, reason="step"):
    set_state(state, step)
    aux = Aux(
        {"noise/counter": state.ids.astype(np.uint64) * 3}, {"bath_heat": np.array(0.1 * step), "chain": np.arange(4.0)}
    )
    return Frame(state, aux, Model(state), None, reason, "stage one")


def parameters_for(path, **changes) -> OutputParameters:
    return OutputParameters(**({"file": path} | changes))


def write_run(
    path, steps=range(0, 101, 5), checkpoint=20, state=None, close=True, resume=False, force=False, **changes
):
    """Thermo at every step given, frames at every second of them, checkpoints at multiples of ``checkpoint``."""
    state = make_state() if state is None else state
    writer = TrajectoryWriter(
        parameters_for(path, **changes), COLUMNS, deck='title = "a µ"\n', settings={"run": {"steps": 100}},
        force=force, resume=resume,
    )  # fmt: skip
    for step in steps:
        frame = frame_of(state, step)
        writer.append_thermo(frame, {"step": step, "time": frame.time, "energy": -(float(step) ** 2)})
        if step % 10 == 0:
            writer.append_frame(frame)
        if step % checkpoint == 0:
            writer.checkpoint(frame, {"seed": 4})
    if close:
        writer.close()
    return writer


def assert_content(path, last, quantities=("positions", "velocities", "spins"), rtol=0.0):
    """Everything of the analytic run up to step ``last`` is in the file, and nothing else."""
    names = {"positions": "position", "velocities": "velocity", "spins": "spin", "forces": "atomic_force",
             "fields": "magnetic_field"}  # fmt: skip
    with h5py.File(path, "r") as file:
        steps = np.arange(0, last + 1, 10)
        for quantity in quantities:
            group = file[f"{FRAMES}/{names[quantity]}"]
            np.testing.assert_array_equal(group["step"][:], steps)
            np.testing.assert_array_equal(group["time"][:], 0.001 * steps)
            expected = np.array([field_of(quantity, step) for step in steps])
            np.testing.assert_allclose(group["value"][:], expected, rtol=rtol, atol=1e-12 if rtol == 0.0 else 1e-6)
        assert file[f"{FRAMES}/box/edges/value"].shape == (len(steps), 3, 3)
        np.testing.assert_array_equal(file[f"{FRAMES}/mass"][:], [55.8, 55.9, 16.0, 55.7, 16.1])
    thermo = read_thermo(path)
    np.testing.assert_array_equal(thermo["step"], np.arange(0, last + 1, 5))
    np.testing.assert_array_equal(thermo["energy"], -(np.arange(0.0, last + 1, 5) ** 2))
