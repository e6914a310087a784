"""Magnons of bcc iron from a table of couplings J_ij: S(q, ω) of runs at two temperatures, linear spin-wave theory laid over it.

    python docs/examples/magnons_iron_table.py            # one or two minutes; writes magnons_iron_table.png here
    python docs/examples/magnons_iron_table.py --cells 6 --steps 800 --figure short.png

The table is written to a file as spinmd reads it, one line per neighbour: elements, vector in Å, J in meV, each pair once, J > 0
ferromagnetic. Codes that count both ij and ji (UppASD, TB2J) print half of these numbers. What to see: at 10 K peaks lie on the
lines of the theory; at 300 K waves are softer and have widths, since they scatter off each other.
"""

import argparse
import tempfile
from itertools import permutations, product
from pathlib import Path

import numpy as np

import spinmd
from spinmd import Trajectory, analysis
from spinmd.analysis.brillouin import primitive_cell, sampled_path
from spinmd.analysis.results import side_by_side
from spinmd.analysis.spin_wave_theory import Waves
from spinmd.commands.analyze_spin_waves import lay_over
from spinmd.spin_hamiltonian import spin_crystal

A, MOMENT = 2.87, 2.23  # Å, µB
SHELLS = {  # one vector of each shell, in lattice constants, and J in meV
    (0.5, 0.5, 0.5): 36.4,
    (1.0, 0.0, 0.0): 20.6,
    (1.0, 1.0, 0.0): -1.6,
    (1.5, 0.5, 0.5): -2.4,
}
TEMPERATURES = (10.0, 300.0)  # K
PATH = "G-H-N-G-P"


def table() -> str:
    """The couplings of one atom, one neighbour a line."""
    lines = ["# two elements, the vector between them (Å), J (meV)"]
    for vector, coupling in SHELLS.items():
        signed = {
            tuple(np.multiply(sign, v).tolist()) for v in permutations(vector) for sign in product((1, -1), repeat=3)
        }
        lines += [f"Fe Fe  {A * x:8.4f} {A * y:8.4f} {A * z:8.4f}  {coupling}" for x, y, z in sorted(signed)]
    return "\n".join(lines) + "\n"


def deck(folder: Path, cells: int, steps: int, temperature: float) -> dict:
    """Spins on a rigid lattice: half a picosecond in a bath, then ``steps`` at constant energy, which are looked at."""
    return {
        "structure": {
            "prototype": "bcc", "element": "Fe", "lattice_constant": A, "supercell": [cells] * 3,
            "spins": {"moments": {"Fe": MOMENT}, "texture": "cone", "angle": 0.4 * temperature**0.5},
        },
        "potential": [
            {"kind": "exchange", "parameters": {"form": "list", "file": str(folder / "jij.dat"), "unit": "meV"}}
        ],
        # waves of 400 meV turn by 0.3 rad in half a femtosecond, which the fourth-order solver follows to 1e-4
        "integrator": {
            "ensemble": "langevin", "timestep": "0.5 fs", "lattice": "frozen", "spin_solver": "runge-kutta",
            "spin_damping": 0.1, "temperature": temperature,
        },
        "run": {"steps": 1000, "seed": 1},
        "output": {
            "file": str(folder / f"iron_{temperature:g}K.h5"), "trajectory": 8, "thermo": 100, "checkpoint": 0,
            "quantities": ["spins"],
        },
        "stage": [{"name": "measure", "integrator": {"ensemble": "nve"}, "run": {"steps": steps}}],
    }  # fmt: skip


def structure_factor(tables: dict) -> analysis.Result:
    """Run, and S(q, ω) of the last stage with spin-wave theory over it."""
    with spinmd.build(tables) as simulation:
        simulation.run()
    file = Path(tables["output"]["file"])
    with Trajectory(file) as run:
        result = analysis.dynamical_structure_factor(run, path=PATH)
    return lay_over(result, file, path=PATH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10, help="cubic cells along each edge")
    parser.add_argument("--steps", type=int, default=4000, help="of half a femtosecond, at constant energy")
    parser.add_argument("--figure", type=Path, default=Path("magnons_iron_table.png"))
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "jij.dat").write_text(table())
        decks = [deck(folder, options.cells, options.steps, temperature) for temperature in TEMPERATURES]
        results = [structure_factor(tables) for tables in decks]
        # the theory needs no run: couplings of the deck, at any wave vector
        found = spin_crystal(decks[0]).spin_lattice()
        with Trajectory(decks[0]["output"]["file"]) as run:
            whole = analysis.linear_spin_waves(found.lattice, sampled_path(primitive_cell(run), PATH))
        print(f"spin-wave theory: stiffness {whole['stiffness']:.1f} meV Å², highest energy {whole['top']:.1f} meV")
        theory = Waves(found.lattice).modes(results[0]["q"]).energies[:, 0]
        for temperature, result in zip(TEMPERATURES, results, strict=True):
            peaks = result["branch_energy"][:, 0]
            ratio = (peaks / np.where(theory > 1.0, theory, np.nan))[np.isfinite(peaks)]
            print(
                f"run at {temperature:3.0f} K: {np.isfinite(ratio).sum()} peaks at {100 * np.nanmedian(ratio):.2f} % of the "
                f"theory, "
                f"{100 * np.nanmin(ratio):.1f} to {100 * np.nanmax(ratio):.1f} %"
            )
        many = side_by_side(results, {"temperature": (np.array(TEMPERATURES), "K")})
        analysis.plot(many, options.figure)
    print(f"written: {options.figure}")


if __name__ == "__main__":
    main()
