"""A first run from Python: build from a deck, run, plot energies, temperatures and magnetisation against time.

    python docs/examples/first_run.py                # a few seconds; writes first_run.png into the present folder
    python docs/examples/first_run.py --steps 50 --cells 4 --figure short.png

The system is that of inputs/bcc_iron.toml, bcc iron whose lattice starts at 300 K and whose spins start on a cone, in a
smaller cell, on a wider cone and with an easy axis along x, which lets the magnetisation turn.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

import spinmd

matplotlib.use("Agg")  # draws into files: no screen needed
import matplotlib.pyplot as plt

DECK = Path(__file__).resolve().parents[2] / "inputs" / "bcc_iron.toml"
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}  # legends cover no curve


def simulate(steps: int, cells: int) -> spinmd.Simulation:
    """Run the deck of bcc iron in a cell of ``cells``³ unit cells; nothing is written."""
    deck = spinmd.load_deck(DECK)
    easy_axis = {"kind": "anisotropy", "parameters": {"K": "5 meV", "axis": [1, 0, 0]}}
    changes = {
        "structure.supercell": [cells] * 3,
        "structure.spins.angle": 75,
        "output.thermo": 2,
        "potential": [*deck.tables["potential"], easy_axis],
    }
    simulation = spinmd.build(spinmd.load_deck(DECK, changes), output=False)

    # Arrays in: the state's arrays are the ones that the kernels work on. Write into them, then say so.
    state = simulation.state
    spins = state.spins
    tilt = np.radians(20.0)
    spins[:] = spins @ np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
    simulation.moved()

    simulation.run(steps)  # progress=True prints the table of ``spinmd run`` and a progress bar

    # Arrays out: still the same memory, now with the spins of the last step.
    assert state.spins is spins
    lengths = np.linalg.norm(spins, axis=1)
    print(f"lengths of the spins: {lengths.min():.12f} to {lengths.max():.12f} µB")
    return simulation


def plot(simulation: spinmd.Simulation, path: Path) -> None:
    """Three panels over time: energies, temperatures, magnetisation."""
    thermo, natoms = simulation.thermo, simulation.state.natoms
    time = 1000.0 * thermo["time"]
    figure, (energies, temperatures, moments) = plt.subplots(3, 1, sharex=True, figsize=(7.5, 8), layout="constrained")

    for name, label in (
        ("kinetic_energy", "kinetic"),
        ("lattice_potential_energy", "lattice potential"),
        ("spin_energy", "spins"),
        ("conserved", "conserved"),
    ):
        change = 1000.0 * (thermo[name] - thermo[name][0]) / natoms
        energies.plot(time, change, label=label, color="black" if name == "conserved" else None)
    energies.set_ylabel("energy since the start (meV/atom)")
    energies.legend(**BESIDE)

    temperatures.plot(time, thermo["lattice_temperature"], label="lattice")
    temperatures.plot(time, thermo["spin_temperature"], label="spins")
    temperatures.set_ylabel("temperature (K)")
    temperatures.legend(**BESIDE)

    for axis in "xyz":
        moments.plot(time, thermo[f"magnetisation_{axis}"], label=f"$m_{axis}$")
    moments.plot(time, thermo["magnetisation"], color="black", label="|m|")
    moments.set_ylabel("mean moment (µB)")
    moments.set_xlabel("time (fs)")
    moments.legend(**BESIDE)

    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cells", type=int, default=6, help="unit cells along each edge")
    parser.add_argument("--figure", type=Path, default=Path("first_run.png"))
    arguments = parser.parse_args()
    simulation = simulate(arguments.steps, arguments.cells)
    plot(simulation, arguments.figure)
    drift, error = simulation.summary["drift_mev_per_atom_per_ps"], simulation.summary["drift_error"]
    print(
        f"drift of the conserved energy: {drift:.1e} ± {error:.1e} meV/atom/ps over {simulation.state.clock.time:.2g} ps"
    )
    print(f"figure: {arguments.figure}")


if __name__ == "__main__":
    main()
