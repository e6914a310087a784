"""What baths cost: a Langevin spin-lattice step against an NVE step, in turn, on one core.

    python benchmarks/langevin_cost.py [--sizes 16 32] [--repeats 9] [--json out.json]

bcc iron (EAM and exchange at 3.4 Å), 1 fs, spins on a cone of 40°, default solver of each ensemble; friction 1/ps on the
lattice and α = 0.1 on the spins at 300 K. Medians of processor time in µs per atom-step, which other programs on the
machine disturb less than time on the clock; prints a table, and JSON if asked.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from common import provenance

import spinmd

ROOT = Path(__file__).resolve().parents[1]
BATHS = {"ensemble": "langevin", "temperature": 300, "lattice_friction": 1.0, "spin_damping": 0.1}
AIM = "at most 1.3 times, or 0.25 µs more"


def deck(size: int, baths: dict) -> dict:
    return {
        "structure": {
            "prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665, "supercell": [size] * 3, "temperature": 300,
            "spins": {"moments": {"Fe": 2.2}, "texture": "cone", "angle": 40, "direction": [0, 0, 1]},
        },
        "potential": [
            {"kind": "eam", "parameters": {"file": str(ROOT / "inputs" / "potentials" / "Fe_mm.eam.fs")}},
            {"kind": "exchange", "parameters": {"form": "bethe-slater", "a": 0.02726, "b": 0.2171, "d": 1.841, "cutoff": 3.4}},
        ],
        "integrator": {"timestep": "1 fs", **baths},
        "run": {"steps": 0},
    }  # fmt: skip


def microseconds(size: int, baths: dict, steps: int) -> float:
    simulation = spinmd.build(deck(size, baths), threads=1, output=False)
    simulation.run(20)
    start = time.process_time()
    simulation.run(steps)
    return 1.0e6 * (time.process_time() - start) / steps / simulation.state.natoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32], help="cells along each side; 2 atoms each")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    for size in arguments.sizes:
        steps = max(40, 600_000 // size**3)
        times: dict[str, list[float]] = {"nve": [], "langevin": []}
        for _ in range(arguments.repeats):
            for name, baths in (("nve", {}), ("langevin", BATHS)):
                times[name].append(microseconds(size, baths, steps))
        median = {name: statistics.median(values) for name, values in times.items()}
        ratio = statistics.median(b / a for a, b in zip(times["nve"], times["langevin"], strict=True))
        results.append({"atoms": 2 * size**3, **median, "ratio": ratio})
        print(
            f"{2 * size**3:>8} atoms: nve {median['nve']:.3f}, langevin {median['langevin']:.3f} µs per atom-step, "
            f"ratio {ratio:.2f} (aim: {AIM})",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"provenance": provenance(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
