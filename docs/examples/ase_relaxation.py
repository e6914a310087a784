"""spinmd's potentials in ASE: relax a crystal with its cell, show how magnetic order changes it, compute phonons.

    python docs/examples/ase_relaxation.py               # seconds; writes ase_relaxation.png into the present folder
    python docs/examples/ase_relaxation.py --cells 2 --figure short.png

The potential is that of inputs/reference_dataset.toml (Morse, exchange and biquadratic terms); a file of a trained
DeepSPIN model serves as well: --source model.h5.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.phonons import Phonons

from spinmd.ase_calculator import SpinmdCalculator

matplotlib.use("Agg")  # draws into files: no screen needed
import matplotlib.pyplot as plt

DECK = Path(__file__).resolve().parents[2] / "inputs" / "reference_dataset.toml"
MOMENT = 2.2  # µB


def relax(calculator, moments: list[float]):
    """A bcc cell of two atoms with ``moments`` along z (µB), at its own volume and shape."""
    atoms = bulk("Fe", "bcc", a=2.93, cubic=True)
    atoms.set_initial_magnetic_moments(moments)
    atoms.calc = calculator
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        optimizer.run(fmax=1e-4, steps=200)
    return atoms


def phonons(calculator, lattice_constant: float, cells: int):
    """Bands of the ferromagnet along Γ-H-N-Γ-P; energies in eV."""
    atoms = bulk("Fe", "bcc", a=lattice_constant)
    atoms.set_initial_magnetic_moments([MOMENT])
    with tempfile.TemporaryDirectory() as folder:  # ASE keeps one file per displacement
        finite = Phonons(atoms, calculator, supercell=(cells,) * 3, delta=0.01, name=f"{folder}/phonon")
        finite.run()
        finite.read(acoustic=True)
    path = atoms.cell.bandpath("GHNGP", npoints=120)
    return path, finite.band_structure(path.kpts, verbose=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=DECK, help="a deck or a model file")
    parser.add_argument("--cells", type=int, default=4, help="cells along each edge of the phonon supercell")
    parser.add_argument("--figure", type=Path, default=Path("ase_relaxation.png"))
    arguments = parser.parse_args()
    calculator = SpinmdCalculator(arguments.source)

    orders = {"ferromagnetic": [MOMENT, MOMENT], "antiferromagnetic": [MOMENT, -MOMENT]}
    relaxed = {}
    for name, moments in orders.items():
        atoms = relaxed[name] = relax(calculator, moments)
        a = atoms.get_volume() ** (1 / 3)
        field = calculator.get_magnetic_forces(atoms)[0, 2]
        print(f"{name:17}  a = {a:.4f} Å, {atoms.get_potential_energy() / 2:.4f} eV per atom, field {field:+.4f} eV/µB")

    lattice_constant = relaxed["ferromagnetic"].get_volume() ** (1 / 3)
    path, energies = phonons(calculator, lattice_constant, arguments.cells)
    print(f"highest phonon: {1e3 * energies.max():.1f} meV")

    x, ticks, labels = path.get_linear_kpoint_axis()
    figure, axis = plt.subplots(figsize=(6.5, 4.0), layout="constrained")
    axis.plot(x, 1e3 * energies, color="tab:blue")
    axis.set_xticks(ticks, [label.replace("G", "Γ") for label in labels])
    for tick in ticks:
        axis.axvline(tick, color="0.8", linewidth=0.8, zorder=0)
    axis.set(xlim=(x[0], x[-1]), ylabel="phonon energy (meV)", title=f"ferromagnetic bcc iron, {arguments.source.name}")
    axis.set_ylim(bottom=min(0.0, 1.05e3 * np.min(energies)))
    figure.savefig(arguments.figure, dpi=100)
    plt.close(figure)
    print(f"figure: {arguments.figure}")


if __name__ == "__main__":
    main()
