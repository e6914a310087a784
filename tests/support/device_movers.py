"""One integrator on host and device, step by step from the same state: for the tests of movers in tests/device."""

from copy import deepcopy

import numpy as np
from support.devices import both

ALLOY = {
    "prototype": "B2", "elements": ["Fe", "Co"], "lattice_constant": 2.86, "supercell": [2, 2, 1], "displacement": 0.05,
    "temperature": 300, "spins": {"moments": {"Fe": 2.2, "Co": 1.9}, "texture": "random"},
}  # fmt: skip
OPEN = {"pbc": [False, False, False]}  # without images, which cost the simulator most of its time
BETHE = {"form": "bethe-slater", "a": 0.027, "b": 0.2, "d": 1.84, "cutoff": 3.4}
MORSE = {"kind": "morse", "parameters": {"depth": 0.4, "alpha": 1.4, "r0": 2.8, "cutoff": 3.6}}
EXCHANGE = {"kind": "exchange", "parameters": {**BETHE, "offset": True}}
ON_SITE = [
    {"kind": "anisotropy", "parameters": {"K": 0.002, "axis": [1, -1, 2]}, "elements": ["Co"]},
    {"kind": "cubic-anisotropy", "parameters": {"K1": 0.004, "K2": -0.003}},
]
RIGID = [
    {"kind": "exchange", "parameters": {"form": "shells", "J": [0.02, -0.004], "tolerance": 0.05}},
    {"kind": "exchange", "parameters": {"form": "shells", "J": [0.01], "tolerance": 0.05}, "pairs": ["Fe-Co"]},
    {"kind": "dmi", "parameters": {"form": "shells", "D": [0.002, 0.001], "tolerance": 0.05, "direction": "bond"}},
    {"kind": "biquadratic", "parameters": {"form": "shells", "K": [0.003], "tolerance": 0.05}},
    {"kind": "zeeman", "parameters": {"field": [5.0, -3.0, 10.0]}},
    {
        "kind": "tensor-exchange",
        "parameters": {"form": "shells", "isotropic": [0.0, 0.002], "bond": [0.004, -0.003], "tolerance": 0.05},
    },
    *ON_SITE,
]  # every kind of coupling; the second shell holds an atom's own images


def deck(potentials: list, structure: dict | None = None, **integrator) -> dict:
    """A deck of these terms on a small alloy, with random spins; ``integrator``: that table."""
    table = {"timestep": "1 fs", **integrator}
    if table.get("ensemble") in ("monte-carlo", "parallel-tempering"):
        del table["timestep"]
    return {
        "structure": {**ALLOY, **(structure or {})}, "potential": potentials, "integrator": table, "run": {"steps": 20, "seed": 3},
    }  # fmt: skip


CONSTANT = (
    "lattice_friction",
    "lattice_bath",
    "spin_damping",
    "spin_bath",
    "frozen_atoms",
    "fixed_spins",
    "lattice_noise",
    "spin_noise",
    "lattice_bath_start",
    "spin_bath_start",
    "monte_carlo",
    "parallel_tempering",
)  # what movers keep and never change


class Both:
    """The integrator of a deck on host and device; solvers launch no more iterations than these tests need."""

    def __init__(self, table: dict):
        from spinmd.integrators.cuda import device_mover

        self.simulation, self.state, self.model = both(table)
        self.host, self.integrator = self.simulation.state, self.simulation.integrator
        self.aux = self.integrator.init(self.host, 11)
        self.simulation.model.attach(self.aux)
        self.state.velocities.set(self.host.velocities)  # atoms that are held have come to rest
        self.mover = device_mover(self.integrator, self.state, self.aux)
        solver = getattr(self.mover, "flows", {}).get("S")
        if hasattr(solver, "launched"):
            solver.launched = 8

    def step(self, steps: int) -> None:
        """Take steps on both; from the second one on nothing may cross between host and device."""
        from spinmd.cuda.arrays import reset_transfers, transfers

        for k in range(steps):
            status = self.integrator.step(self.host, self.aux, self.simulation.model)
            assert status.ok, status
            if k == 1:
                reset_transfers()
            self.mover.step(self.model)
        assert steps < 2 or (transfers.to_host, transfers.to_device) == (0, 0)
        assert self.mover.unsolved() == 0

    def compare(self, tolerance: float = 1e-11, rough: tuple[str, ...] = ()) -> None:
        """State, clock and what the mover keeps, but for ``rough``, agree, relative to the largest number of each array."""
        aux = deepcopy(self.aux)
        for array in (*aux.per_atom.values(), *aux.globals.values()):
            array[...] = 0
        self.mover.download(aux)
        self.mover.download_histories(aux)
        pairs = {
            name: (getattr(self.state, name).host(), getattr(self.host, name))
            for name in ("positions", "velocities", "spins")
        }
        kept = {**self.aux.per_atom, **self.aux.globals}
        mine = {**aux.per_atom, **aux.globals}
        pairs |= {name: (mine[name], kept[name]) for name in kept if name not in (*CONSTANT, *rough)}
        for name, (device, host) in pairs.items():
            scale = max(float(np.abs(host).max(initial=0.0)), 1e-6)
            assert np.abs(device - host).max(initial=0.0) <= tolerance * scale, (
                name,
                np.abs(device - host).max(),
                scale,
            )
        assert self.state.clock.step == self.host.clock.step == int(self.state.ticks.host()[0])
        assert self.state.clock.time == self.host.clock.time == float(self.state.time.host()[0])
