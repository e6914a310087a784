"""Energy drift of NVE runs, spinmd beside LAMMPS: least-squares slope of the total energy after the first picosecond.

    python benchmarks/energy_drift.py [--lammps-python PYTHON] [--time 10] [--cells 8] [--json out.json]

bcc iron, 1024 atoms, EAM plus exchange at 3.4 Å, lattice from 300 K, near the ferromagnet (a cone of 10°) and from
random spins, at several timesteps; then with anisotropy, biquadratic exchange and DMI switched on, for the spin solvers
and other orders of the flows. Prints meV/atom/ps with the block standard error, and the fluctuation about the line.
"""

import argparse
import json
import sys

import numpy as np
from common import lammps_case, provenance, spinmd_case

from spinmd.drift import drift

NEAR = {"texture": "cone", "texture_options": "angle = 10"}
EVERYTHING = """
[[potential]]
kind = "anisotropy"
parameters = { K = "0.5 meV", axis = [0, 0, 1] }

[[potential]]
kind = "biquadratic"
parameters = { form = "bethe-slater", a = 0.006, b = 0.03, d = 1.48, cutoff = 3.4 }

[[potential]]
kind = "dmi"
parameters = { form = "constant", D0 = "1 meV", cutoff = 3.4, direction = "bond" }
"""
ANISOTROPY = EVERYTHING.split("[[potential]]")[1].join(["\n[[potential]]", ""])


def measure(thermo, atoms, energy) -> dict:
    """Slope, its error and the fluctuation (standard deviation about the line), meV/atom."""
    time = np.array(thermo["time"])
    values = 1000.0 * np.array(thermo[energy]) / atoms
    slope, error = drift(time, values)
    late = time > min(1.0, 0.5 * time[-1])
    rest = values[late] - np.polyval(np.polyfit(time[late], values[late], 1), time[late])
    return {"drift_mev_per_atom_per_ps": slope, "drift_error": error, "fluctuation_mev_per_atom": float(rest.std())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lammps-python", help="interpreter that has lammps and mpich; without it spinmd runs alone")
    parser.add_argument("--time", type=float, default=10.0, help="ps")
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--json")
    options = parser.parse_args()
    atoms = 2 * options.cells**3
    results = []

    def record(code, case, timestep, thermo, energy):
        row = {"code": code, "case": case, "timestep_fs": 1000.0 * timestep, **measure(thermo, atoms, energy)}
        results.append(row)
        print(
            f"{code:34s} {case:36s} {row['timestep_fs']:5.2f} fs  drift {row['drift_mev_per_atom_per_ps']:+.2e} ± "
            f"{row['drift_error']:.1e} meV/atom/ps   fluctuation {row['fluctuation_mev_per_atom']:.2e} meV/atom",
            file=sys.stderr,
        )  # fmt: skip

    def ours(case, timestep, solver="midpoint", smoothing=0.0, **kind):
        run = spinmd_case(
            [options.cells] * 3, 3.4, round(options.time / timestep), solver=solver, timestep=timestep, thermo=10,
            smoothing=smoothing, **kind,
        )  # fmt: skip
        flows = kind.get("integrator", "").removeprefix("splitting = ").strip('"')
        record(f"spinmd {solver} {flows}".strip(), case, timestep, run["thermo"], "conserved")

    def theirs(case, timestep, spins):
        run = lammps_case(
            options.lammps_python, cells=options.cells, cutoff=3.4, steps=round(options.time / timestep), warmup=0, thermo=10,
            timestep=timestep, spins=spins,
        )  # fmt: skip
        rows = np.array(run["thermo"])
        record("LAMMPS", case, timestep, {"time": rows[:, 1], "etotal": rows[:, 4]}, "etotal")

    for case, kind, spins in (
        ("near the ferromagnet", NEAR, "cone 10"),
        ("random spins", {}, "set group all spin/random 31 2.2"),
    ):
        for timestep in (0.0005, 0.001, 0.002):
            ours(case, timestep, **kind)
            if options.lammps_python and timestep == 0.001:
                theirs(case, timestep, spins)
        ours(case, 0.001, "suzuki-trotter", **kind)
        ours(case, 0.001, "spherical-midpoint", **kind)
        for flows in ("V R S R V", "R V S V R"):
            ours(case, 0.001, integrator=f'splitting = "{flows}"', **kind)
    for solver in ("midpoint", "spherical-midpoint", "suzuki-trotter"):
        ours("random, smooth cutoff", 0.001, solver, 0.2)
        ours("random, anisotropy", 0.001, solver, 0.2, terms=ANISOTROPY)
        ours("random, anisotropy, biquadratic, DMI", 0.001, solver, 0.2, terms=EVERYTHING)
        ours("near, anisotropy, biquadratic, DMI", 0.001, solver, 0.2, terms=EVERYTHING, **NEAR)
    text = json.dumps(
        {"benchmark": "energy_drift", **provenance(), "atoms": atoms, "time_ps": options.time, "results": results},
        indent=1,
    )
    print(text)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
