"""Runs that are stopped on the way, by a signal or by a kill, and what their files hold in the end."""

import json

import h5py
import numpy as np

import spinmd
from spinmd.protocols import Need

# hot, sheared and with a thin skin: lists are rebuilt and atoms cross the boundary while it runs
DECK = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [4, 4, 4]
displacement = 0.05
temperature = 2000
strain = [[0.01, 0.05, 0.0], [0.0, 0.0, 0.03], [0.02, 0.0, -0.01]]

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[neighbours]
skin = 0.1

[[potential]]
kind = "eam"
parameters = { file = "Fe_mm.eam.fs" }

[[potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4 }

[integrator]
timestep = "1 fs"

[run]
steps = 26

[output]
file = "run.h5"
thermo = 3
trajectory = 4
checkpoint = 7
quantities = ["positions", "velocities", "spins", "forces", "fields"]
"""


class Killed(Exception):
    """Stands for SIGKILL: nothing is written, closed or cleaned after it."""


class _Killer:
    needs, every = Need.NONE, 1

    def __init__(self, step):
        self.step = step

    def report(self, frame):
        if frame.step >= self.step and frame.reason not in ("resume", "diverged"):
            raise Killed

    def close(self):
        """Nothing is held."""


def whole_run(deck, overrides=(), name="whole.h5"):
    with spinmd.build(deck, {**dict(overrides), "output.file": name}) as simulation:
        return simulation.run()


def stop_at(simulation, step, kill=False):
    """Run until the clock shows ``step``; then a signal, or a kill before anything of that step is written."""
    if not kill:
        simulation.run(stop=lambda: simulation.state.clock.step >= step)
        simulation.close()
        return
    try:
        simulation.run(reporters=[_Killer(step)])
    except Killed:
        simulation._finalizer.detach()
        simulation._file[0].writer._lock.release()


def run_with_stops(deck, path, stops, overrides=(), **resuming):
    """Run a deck whose output is ``path``, stopped at each of ``stops`` (a negative one is a kill); the last summary."""
    simulation = spinmd.build(deck, overrides)
    for step in stops:
        stop_at(simulation, abs(step), kill=step < 0)
        simulation = spinmd.resume(path, **resuming)
    with simulation:
        return simulation.run()


def contents(path) -> dict[str, np.ndarray]:
    """Every array of a run's file, its checkpoint included, but for the texts that name places and versions."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("spinmd/deck") and not name.endswith("meta"):
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
        group = file["spinmd/checkpoint"]  # behind an external link while a run goes on
        group.visititems(lambda name, item: visit(f"spinmd/checkpoint/{name}", item))
        found["step"], found["time"] = group.attrs["step"], group.attrs["time"]
        where = json.loads(group["meta"].asstr()[()])["extra"]
        found["course"] = np.array([where["stage"], where["first_step"], *where["steps_left"]])
    return found


def assert_same(mine, theirs) -> None:
    """Two files hold the same numbers, bit for bit."""
    mine, theirs = contents(mine), contents(theirs)
    assert mine.keys() == theirs.keys()
    differing = [name for name in theirs if not same_bits(mine[name], theirs[name])]
    assert not differing, differing


def same_bits(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
