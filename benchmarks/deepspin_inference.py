"""Inference of DeepSPIN on one core: µs per atom and evaluation, memory and start-up, beside DeePMD-kit in the same run.

    python benchmarks/deepspin_inference.py [--deepmd-python PATH] [-o out.json]

2048 atoms of perturbed NiO (from ../shared/reference/deepmd, replicated). Two nets: the small one of ../shared
(10-20-40, axis 8, 60³) and a large one with random weights (25-50-100, axis 16, 240³). An evaluation is energy,
forces and fields at new positions and spins, neighbour list included, as in a running simulation: atoms move with
thermal speed, lists are rebuilt when they must be. DeePMD-kit evaluates the same weights through ``DeepPot.eval``,
with a python of an environment that has it (its library folder is put on LD_LIBRARY_PATH). Prints JSON; times are the
best of several repetitions, since other work on the machine only ever adds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))
REFERENCE = ROOT.parent / "shared" / "reference" / "deepmd"
NETS = {"small": None, "large": {"neuron": (25, 50, 100), "axis": 16, "fitting": (240, 240, 240)}}
REPEAT = 4  # cells of 32 atoms along each direction
SPEED = 0.004  # Å, how far an atom moves in a step, about: 300 K and 1 fs

DECK = """
[structure]
file = "{structure}"

[[potential]]
kind = "deepspin"
parameters = {{ model = "{model}" }}

[integrator]
ensemble = "nve"
timestep = "1 fs"

[run]
steps = 1
seed = 1

[output]
file = "{output}"
thermo = 1
trajectory = 0
checkpoint = 0
"""


def models() -> dict:
    """The two DeepSpinModels; the small one is absent without ../shared."""
    from support.deepspin_models import make_random_model

    from spinmd.interop.deepmd import read_deepmd

    found = {}
    if (REFERENCE / "model_small.dp").exists():
        found["small"] = read_deepmd(REFERENCE / "model_small.dp")
    found["large"] = make_random_model(
        ("Ni", "O"), (True, False), cutoff=5.6, cutoff_smooth=5.4, virtual_scale=0.314, sel=46, **NETS["large"]
    )
    return found


def structure(repeat: int = REPEAT):
    """NiO: a rocksalt cell of 32 atoms, perturbed, replicated; every copy is perturbed on its own."""
    import numpy as np

    from spinmd.state import State

    random = np.random.default_rng(1)
    a = 4.17
    corners = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(1)], float)
    faces = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    nickel = (corners[:, None] + faces[None]).reshape(-1, 3) * a
    sites = np.concatenate([nickel, nickel + [0.5 * a, 0, 0]])
    cell = a * np.diag([2.0, 2.0, 1.0])
    shifts = np.array([[x, y, z] for x in range(repeat) for y in range(repeat) for z in range(repeat)]) @ cell
    positions = (sites[None] + shifts[:, None]).reshape(-1, 3)
    count = len(positions)
    elements = (["Ni"] * 16 + ["O"] * 16) * len(shifts)
    masses = np.where(np.array(elements) == "Ni", 58.69, 16.0)
    spins = random.normal(size=(count, 3))
    spins *= (np.where(np.array(elements) == "Ni", 1.27, 0.0) / np.linalg.norm(spins, axis=1))[:, None]
    return State.create(
        cell * repeat, positions + random.normal(scale=0.06, size=(count, 3)), elements, masses, spins=spins
    )


def multiply_adds(model, inside: float, virtual: float) -> float:
    """Fused multiply-adds per atom: channels (9 forward, 18 back, for neighbour and channel), descriptor, nets both ways."""
    network = model.network
    width, axis = network.width, network.axis
    channels = 27 * width * (inside + virtual)
    descriptor = 12 * width * axis
    nets = 2 * sum(layer.weight.size for layer in network.fitting[0])
    return channels + descriptor + nets


def peak_of_core() -> dict:
    """10⁹ multiply-adds per second of numpy's matrix product, and of the kernels' own (often with wider vectors)."""
    import numpy as np
    from numba import njit

    from spinmd.simd_matrix import tile_3

    @njit
    def own(x, w, c):
        for row in range(0, 64, 8):
            tile_3(x, row * 512, 512, w, 0, 512, c, row * 24, 24)

    a = np.random.default_rng(0).random((1024, 1024))
    numpy_rate = 1024**3 / best(lambda: a @ a, 5) / 1e9
    x, w, c = a.ravel()[: 64 * 512], a.ravel()[: 512 * 24], np.zeros(64 * 24)
    own(x, w, c)
    return {"numpy": numpy_rate, "own": 64 * 24 * 512 / best(lambda: own(x, w, c), 200) / 1e9}


def best(call, count: int) -> float:
    """Shortest of ``count`` times, s."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, precision: str) -> dict:
    """One net in this process: µs per atom of evaluations along a walk, and of field-only calls at fixed positions."""
    import resource

    import numba
    import numpy as np

    numba.set_num_threads(1)
    from spinmd.backend import Backend
    from spinmd.model import Model
    from spinmd.potentials.deepspin.potential import DeepSpin
    from spinmd.protocols import Need

    state = structure()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    description = models()[name]
    start = time.perf_counter()
    term = DeepSpin.of(description, precision)
    tables = time.perf_counter() - start
    model = Model(state, [term], backend=Backend())
    need = Need.ENERGY | Need.FORCE | Need.FIELD
    model.evaluate(need)
    model.evaluate(Need.FIELD)
    random = np.random.default_rng(2)
    drift = random.normal(size=state.positions.shape) * SPEED
    times, builds = [], model.lists.builds
    steps, chunk = 60, 20

    def walk():
        for _ in range(chunk):
            state.positions += drift
            model.moved(positions=True, spins=True)
            model.evaluate(need)

    for _ in range(steps // chunk):  # rebuilds fall into every chunk
        times.append(best(walk, 1) / chunk)

    def field():
        model.moved(spins=True)
        model.evaluate(Need.FIELD)

    def again():
        model.moved(positions=True, spins=True)
        model.evaluate(need)

    part = term.parts[0]
    inside, virtual = part.work_done()
    per_atom = 1e6 / state.natoms
    return {
        "us_per_atom": min(times) * per_atom, "us_per_atom_without_rebuilds": best(again, 20) * per_atom,
        "us_per_atom_fields_only": best(field, 20) * per_atom, "rebuilds_per_evaluation": (model.lists.builds - builds) / steps,
        "atoms": state.natoms, "tables_seconds": tables, "table_value_error": part.tables.value_error,
        "multiply_adds_per_atom": multiply_adds(description, inside, virtual),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "mib_before": before,
    }  # fmt: skip


def pinned(command, env=None) -> str:
    """Output of a command on core 0; the benchmark stops where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def deepmd(python, name: str, model, folder: Path, repetitions: int) -> dict:
    """DeePMD-kit on the same weights and atoms."""
    import numpy as np
    from common import DEEPMD_EVALUATION

    from spinmd.interop.deepmd import write_deepmd

    home = Path(python).absolute().parents[1]
    site = next((home / "lib").glob("python3*/site-packages"))
    env = {"LD_LIBRARY_PATH": f"{home / 'lib'}:{site / 'nvidia' / 'cuda_runtime' / 'lib'}", "CUDA_VISIBLE_DEVICES": ""}
    source, frozen, data = folder / f"{name}.dp", folder / f"{name}.pth", folder / "atoms.npz"
    write_deepmd(model, source)
    pinned([str(home / "bin" / "dp"), "convert-backend", str(source), str(frozen)], env)
    state = structure(2)
    types = np.array([model.elements.index(e) for e in state.elements])
    np.savez(data, positions=state.positions, cell=state.cell, spins=state.spins, types=types)
    script = folder / "evaluate.py"
    script.write_text(DEEPMD_EVALUATION)
    result = json.loads(pinned([python, str(script), str(frozen), str(data), str(repetitions)], env).splitlines()[-1])
    return {**result, "atoms": len(types)}


def start_up(model, folder: Path) -> float:
    """Seconds of a whole run of one step of a deck, with warm caches."""
    from ase import Atoms
    from ase.io import write

    from spinmd.potentials.deepspin.model_file import write_model

    write_model(model, folder / "model.h5")
    state = structure(1)
    atoms = Atoms(state.elements, positions=state.positions, cell=state.cell, pbc=True)
    atoms.set_initial_magnetic_moments(state.spins)
    write(folder / "atoms.extxyz", atoms)
    deck = folder / "deck.toml"
    deck.write_text(
        DECK.format(structure=folder / "atoms.extxyz", model=folder / "model.h5", output=folder / "out.h5"),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "spinmd", "run", str(deck), "--quiet", "--force", "--threads", "1"]
    env = {"PYTHONPATH": str(ROOT)}
    pinned(command, env)
    return best(lambda: pinned(command, env), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deepmd-python", help="python of an environment with deepmd-kit 3.2")
    parser.add_argument("--repetitions", type=int, default=3, help="evaluations of DeePMD-kit")
    parser.add_argument("--start-up", action="store_true", help="also time a whole run of one step")
    parser.add_argument("--one", nargs=2, metavar=("NET", "PRECISION"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", help="JSON file; default: standard output only")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    from common import provenance

    os.sched_setaffinity(0, {0})
    result = {"provenance": provenance(), "peak_gfma_per_second": peak_of_core()}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models().items():
            entry = result[name] = {}
            for precision in ("float64", "float32"):
                output = pinned([sys.executable, __file__, "--one", name, precision])
                one = entry[precision] = json.loads(output.splitlines()[-1])
                rate = one["multiply_adds_per_atom"] / one["us_per_atom"] / 1e3
                one["gfma_per_second"] = rate
                lanes = 1 if precision == "float64" else 2
                one["fraction_of_peak"] = rate / (lanes * max(result["peak_gfma_per_second"].values()))
            if options.deepmd_python:
                other = entry["deepmd"] = deepmd(options.deepmd_python, name, model, Path(folder), options.repetitions)
                entry["times_faster"] = other["us_per_atom"] / entry["float64"]["us_per_atom"]
                entry["times_faster_float32"] = other["us_per_atom"] / entry["float32"]["us_per_atom"]
            if options.start_up:
                entry["start_up_seconds"] = start_up(model, Path(folder))
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
