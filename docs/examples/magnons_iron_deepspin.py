"""Magnons of fcc iron with a DeepSPIN model: spin-wave theory from derivatives of the network, and S(q, ω) of a run with it.

    python docs/examples/magnons_iron_deepspin.py         # a minute; writes magnons_iron_deepspin.png into the present folder
    python docs/examples/magnons_iron_deepspin.py --cells 2 1 1 --steps 500 --figure short.png

The model (inputs/models/README.md) has learned from fcc iron in antiferromagnetic double layers, up, up, down, down along z,
at one volume, with spins up to 40 degrees off that order. Small waves about it are inside of what it knows; how good they are
is not known, since nothing in its data was about energies of waves. Atoms stand on their sites here, so that the spectrum is
that of the spins alone.

A network has no couplings J_ij. The theory takes second derivatives of its energy by turning one moment at a time; the run asks
the network for fields at every step. Peaks of the run on the lines of the theory say that both did their work.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import spinmd
from spinmd import Trajectory, analysis
from spinmd.commands.analyze_spin_waves import lay_over

DECK = Path(__file__).resolve().parents[2] / "inputs" / "magnons_deepspin.toml"
PATH = "1,0,0 0,0,0 0,0,1"  # along the layers, and across them: equivalent in the crystal, different in this order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs=3, help="cells of 8 atoms, a × a × 2a [default: the deck's]")
    parser.add_argument("--steps", type=int, help="at constant energy [default: the deck's]")
    parser.add_argument("--figure", type=Path, default=Path("magnons_iron_deepspin.png"))
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "iron.h5"
        changes = {"output.file": str(file)}
        changes |= {} if options.cells is None else {"structure.supercell": options.cells}
        changes |= {} if options.steps is None else {"stage.0.run.steps": options.steps}
        with spinmd.build(spinmd.load_deck(DECK, changes)) as simulation:
            simulation.run()
        with Trajectory(file) as run:
            result = analysis.dynamical_structure_factor(run, path=PATH, component="xx+yy", branches=2, segments=2)
        result = lay_over(result, file, path=PATH)
    print("\n".join(f"note: {note}" for note in result.notes))
    print(" q_x and q_z (1/Å)    peaks of the run (meV)   spin-wave theory (meV)")
    for q, peaks, distance in zip(result["q"], result["branch_energy"], result["distance"], strict=True):
        curves = result["overlay_energy"][np.argmin(np.abs(result["overlay_distance"] - distance))]
        waves = np.unique(np.round(curves[np.isfinite(curves)], 1))
        texts = [", ".join(f"{x:.1f}" for x in values) for values in (peaks[np.isfinite(peaks)], waves)]
        print(f"{q[0] + 0.0:8.3f} {q[2] + 0.0:8.3f}   {texts[0]:>24} {texts[1]:>24}")
    analysis.plot(result, options.figure)
    print(f"written: {options.figure}")


if __name__ == "__main__":
    main()
