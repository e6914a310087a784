"""Energy drift of NVE runs in mixed precision beside float64, on the GPU and on the CPU.

    python benchmarks/gpu_drift.py [--picoseconds 10] [--cells 8] [--emulate]     # --emulate: on the CPU alone

bcc iron, EAM and exchange at 3.4 Å, spins on a cone of 10°, lattice from 300 K; slope of the total energy after the first
picosecond with its block standard error. ``--emulate`` runs the integrator of the CPU with the forces and couplings of the GPU's
own kernels in float32: their Python text, compiled for the CPU, one call per atom.
"""

import argparse
import inspect
import json
import sys
import textwrap
from typing import Any

import numpy as np
from gpu_cases import EXCHANGE, LATTICE, POTENTIAL

EVERY = 10  # steps between rows
TIMESTEP = 0.001  # ps


def deck(cells: int, precision: str) -> dict:
    """The crystal whose energy is watched."""
    return {
        "structure": {
            "prototype": "bcc", "element": "Fe", "lattice_constant": LATTICE["bcc"], "supercell": [cells] * 3, "temperature": 300.0,
            "spins": {"moments": {"Fe": 2.2}, "texture": "cone", "angle": 10},
        },
        "potential": [
            {"kind": "eam", "parameters": {"file": str(POTENTIAL)}},
            {"kind": "exchange", "parameters": {**EXCHANGE, "cutoff": 3.4}},
        ],
        "integrator": {"ensemble": "nve", "timestep": TIMESTEP},
        "run": {"steps": 1, "seed": 1, "precision": precision},
    }  # fmt: skip


def row(where: str, precision: str, energies: list[float], atoms: int) -> dict:
    """Drift, its error, and the fluctuation about the line, meV per atom (and ps)."""
    from spinmd.drift import drift

    time = EVERY * TIMESTEP * np.arange(len(energies))
    values = 1e3 * np.array(energies) / atoms
    slope, error = drift(time, values)
    rest = values - np.polyval(np.polyfit(time, values, 1), time)
    return {
        "where": where, "precision": precision, "atoms": atoms, "picoseconds": float(time[-1]), "drift_mev_per_atom_per_ps": slope,
        "drift_error": error, "fluctuation_mev_per_atom": float(rest.std()),
    }  # fmt: skip


def on_gpu(precision: str, cells: int, picoseconds: float) -> dict:
    """A run on the GPU."""
    from gpu_measure import advance

    import spinmd
    from spinmd.cuda.launch import own_stream
    from spinmd.device import on_device

    simulation = spinmd.build(spinmd.load_deck(deck(cells, precision)), device="cuda", output=False)
    with own_stream():
        there = on_device(simulation)
        energies = [there._energy()]
        for _ in range(round(picoseconds / TIMESTEP / EVERY)):
            advance(there, EVERY)
            energies.append(there._energy())
    return row("GPU", precision, energies, simulation.state.natoms)


def on_cpu(cells: int, picoseconds: float, emulated: bool = False) -> dict:
    """A run on the CPU, with its own forces in float64, or with those of the GPU's mixed precision."""
    import spinmd

    simulation = spinmd.build(spinmd.load_deck(deck(cells, "float64")), threads=1, output=False)
    state, model, integrator = simulation.state, simulation.model, simulation.integrator
    if emulated:
        emulate(model)
    aux = integrator.init(state, 1)
    model.attach(aux)

    def energy() -> float:
        return float(integrator.conserved(state, aux, model.evaluate(spinmd.Need.ENERGY | spinmd.Need.FORCE)))

    energies = [energy()]
    for _ in range(round(picoseconds / TIMESTEP / EVERY)):
        for _ in range(EVERY):
            status = integrator.step(state, aux, model)
            if not status.ok:
                raise RuntimeError(status.message)
        energies.append(energy())
    return row(
        "CPU, the GPU's kernels" if emulated else "CPU", "mixed" if emulated else "float64", energies, state.natoms
    )


# ---------------------------------------------------------------------------------------------- the kernels' text on the CPU


def for_cpu(kernel: Any) -> Any:
    """A kernel as a compiled loop over threads: (count, arguments)."""
    from numba import njit

    lines = textwrap.dedent(inspect.getsource(kernel.function)).splitlines()
    while not lines[0].startswith("def "):
        lines.pop(0)
    text = "\n".join(lines).replace("cuda.grid(1)", "_thread").replace("(", "(_thread, ", 1)
    closure = inspect.getclosurevars(kernel.function).nonlocals
    space = {**kernel.function.__globals__, **closure}
    exec(compile(text, kernel.name, "exec"), space)
    one = njit(space[kernel.function.__name__])

    @njit
    def all_of_them(count, arguments):
        for thread in range(count):
            one(thread, *arguments)

    return all_of_them


class Columns:
    """A list of the CPU in the columns of the GPU: ``neighbours`` (room, N), ``count`` (N,), ``packed`` (n_ext, 4)."""

    def __init__(self, pairs: Any):
        natoms = len(pairs.start) - 1
        self.count = np.diff(pairs.start).astype(np.int32)
        self.neighbours = np.zeros((self.count.max(), natoms), np.int32)
        column = np.repeat(np.arange(natoms), self.count)
        self.row = np.arange(len(column)) - np.repeat(np.cumsum(self.count) - self.count, self.count)
        self.column = column
        self.entry = np.repeat(pairs.start[:-1], self.count) + self.row
        self.neighbours[self.row, column] = pairs.neighbours[self.entry]
        self.packed = np.ascontiguousarray(pairs.packed[:, :4], np.float64).copy()
        self.owner, self.species = pairs.owner.astype(np.int32), pairs.species.astype(np.int32)


def emulate(model: Any) -> None:
    """Give the EAM and exchange terms of a model the arithmetic of the GPU's mixed precision."""
    from spinmd.couplings import SpinTerm
    from spinmd.potentials.cuda import eam, exchange
    from spinmd.protocols import OK, Need

    densities, forces = for_cpu(eam._DENSITIES["mixed"]), for_cpu(eam._FORCES["mixed"])
    tabulate, evaluate = for_cpu(exchange._TABULATE["mixed"]), for_cpu(exchange._EVALUATE["mixed"])
    term, spins = model.terms
    f4 = np.float32
    virials = np.zeros((model.state.natoms, 9))

    def add_eam(state: Any, pairs: Any, out: Any, need: Any) -> Any:
        c, tables, n = Columns(pairs), term.tables, state.natoms
        energies = np.zeros(n)
        shared = (term._nspecies, f4(term.cutoff), f4(1.0 / tables.dr))
        densities(
            n,
            (c.packed, c.species, c.neighbours, c.count, term._rows.astype(f4), term._offsets, *shared, term._f_rows, term._f_first,
             tables.nrho, 1.0 / tables.drho, 1, energies),
        )  # fmt: skip
        real = c.owner < n
        c.packed[real, 3] = c.packed[c.owner[real], 3]
        forces(
            n,
            (c.packed, c.species, c.neighbours, c.count, term._both.astype(f4), term._offsets, term._reverse, *shared, 1, 0,
             out.forces if Need.FORCE in need else np.zeros((n, 3)), energies, virials),
        )  # fmt: skip
        out.energy[0] += energies.sum()
        return OK

    def arguments() -> tuple:
        _, _, nspecies, cutoff, inverse_spacing, _ = spins._tables
        offsets = np.zeros(len(model.state.symbols) ** 2, np.int32) if nspecies == 1 else spins._offsets
        return spins._rows.astype(f4), offsets, nspecies, f4(cutoff), f4(inverse_spacing)

    def add_exchange(state: Any, pairs: Any, out: Any, need: Any) -> Any:
        c, n = Columns(pairs), state.natoms
        energies = np.zeros(n)
        evaluate(
            n,
            (state.spins, spins.inverse_moments, c.owner, c.species, c.neighbours, c.count, *arguments(), c.packed, spins._offset,
             1, int(Need.FORCE in need), int(Need.FIELD in need), 0, out.forces, out.fields, energies, virials),
        )  # fmt: skip
        out.energy[0] += energies.sum()
        return OK

    def freeze(state: Any, pairs: Any) -> Any:
        c = Columns(pairs)
        coupling, atoms = np.zeros(c.neighbours.shape), np.zeros(c.neighbours.shape, np.int32)
        tabulate(state.natoms, (c.packed, c.owner, c.species, c.neighbours, c.count, *arguments(), coupling, atoms))
        values = np.zeros(len(pairs.neighbours))
        values[c.entry] = coupling[c.row, c.column]
        return SpinTerm(start=pairs.start, count=c.count, neighbours=pairs.atoms, isotropic=values)

    term.add, spins.add, spins.freeze = add_eam, add_exchange, freeze
    model._live = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument(
        "--emulate", action="store_true", help="on the CPU, with the kernels of the GPU's mixed precision"
    )
    options = parser.parse_args()
    size = (options.cells, options.picoseconds)
    rows = [on_cpu(*size)]
    rows += [on_cpu(*size, emulated=True)] if options.emulate else [on_gpu(p, *size) for p in ("float64", "mixed")]
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
