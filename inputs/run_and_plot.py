"""Set up, run and plot from Python: spins far from equilibrium warm the lattice of bcc iron.

python inputs/run_and_plot.py            # some seconds; writes run_and_plot.png into the present folder
python inputs/run_and_plot.py --steps 200 --cells 4 --output short.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

import spinmd

matplotlib.use("Agg")  # draws into files: no screen needed
import matplotlib.pyplot as plt

INPUTS = Path(__file__).resolve().parent


def simulate(steps: int, cells: int) -> spinmd.Simulation:
    """Run the quickstart deck with spins on a wide cone over a cold lattice; nothing is written."""
    deck = spinmd.load_deck(
        INPUTS / "quickstart.toml",
        {
            "structure.supercell": [cells] * 3,
            "structure.temperature": "10 K",
            "structure.spins.angle": 70,
            "output.thermo": 10,
        },
    )
    simulation = spinmd.build(deck, output=False)

    # arrays are the simulation's own: turn the spins of one half of the crystal by 90° about z before starting
    state = simulation.state
    half = state.positions[:, 0] < 0.5 * state.cell[0, 0]
    state.spins[half] = state.spins[half] @ np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    simulation.moved()

    simulation.run(steps, progress=True)
    return simulation


def plot(simulation: spinmd.Simulation, path: Path) -> None:
    """Temperatures, and how far the conserved energy strays, against time."""
    thermo = simulation.thermo
    natoms = simulation.state.natoms
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(6, 6), layout="constrained")
    above.plot(thermo["time"], thermo["lattice_temperature"], label="lattice")
    above.plot(thermo["time"], thermo["spin_temperature"], label="spins")
    above.set_ylabel("temperature (K)")
    above.legend()
    below.plot(thermo["time"], 1e6 * (thermo["conserved"] - thermo["conserved"][0]) / natoms)
    below.set_ylabel("change of the energy (µeV/atom)")
    below.set_xlabel("time (ps)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--cells", type=int, default=8, help="unit cells along each edge")
    parser.add_argument("--output", type=Path, default=Path("run_and_plot.png"))
    arguments = parser.parse_args()
    plot(simulate(arguments.steps, arguments.cells), arguments.output)
    print(f"figure: {arguments.output}")


if __name__ == "__main__":
    main()
