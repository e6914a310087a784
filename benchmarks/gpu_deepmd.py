"""DeePMD-kit's evaluation of the nets of ``gpu_cases``, in an interpreter of its own, on the GPU where it finds one."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from common import DEEPMD_EVALUATION
from gpu_cases import LATTICE, model_file

REPETITIONS = 5
CELLS = (8, 4, 2)  # along the edge, eight atoms each; the first that DeePMD-kit has the memory for
SECONDS = 240


def evaluate(python: str, net: str, cells: tuple[int, ...] = CELLS, repetitions: int = REPETITIONS) -> dict:
    """Seconds of ``DeepPot.eval`` (energy, forces, fields; arrays come from the host and go back), atoms per second, the energy.

    RuntimeError with the last line of what DeePMD-kit says where it cannot be run.
    """
    from spinmd.interop.deepmd import write_deepmd
    from spinmd.potentials.deepspin.model_file import read_model

    if not Path(python).exists():
        raise RuntimeError(f"there is no {python}; give the interpreter of an environment with deepmd-kit")
    home = Path(python).absolute().parents[1]
    libraries = [home / "lib", *(home / "lib").glob("python3*/site-packages/nvidia/*/lib")]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    environment.pop("PYTHONPATH", None)  # what spinmd needs is not for DeePMD-kit
    model = read_model(model_file(net))
    with tempfile.TemporaryDirectory() as folder:
        source, frozen = Path(folder) / "net.dp", Path(folder) / "net.pth"
        write_deepmd(model, source)
        call([str(home / "bin" / "dp"), "convert-backend", str(source), str(frozen)], environment)
        script, data = Path(folder) / "evaluate.py", Path(folder) / "atoms.npz"
        script.write_text(DEEPMD_EVALUATION, encoding="utf-8")
        for count in cells:
            positions, cell, types, spins = nickel_oxide(count)
            np.savez(data, positions=positions, cell=cell, types=types, spins=spins)
            try:
                output = call([python, str(script), str(frozen), str(data), str(repetitions)], environment)
                break
            except RuntimeError:
                if count == cells[-1]:
                    raise
    found = json.loads(output.splitlines()[-1])
    return {"atoms": len(types), **found, "atoms_per_s": len(types) / found["seconds_per_evaluation"]}


def nickel_oxide(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions (N, 3) Å, displaced, cell, types (0 nickel, 1 oxygen), spins (N, 3) µB of a rocksalt crystal."""
    random, a = np.random.default_rng(1), LATTICE["rocksalt"]
    places = np.array(list(np.ndindex(2 * cells, 2 * cells, 2 * cells)))
    types = places.sum(axis=1) % 2
    spins = random.normal(size=places.shape)
    spins *= np.where(types == 0, 1.27, 0.0)[:, None] / np.linalg.norm(spins, axis=1)[:, None]
    return 0.5 * a * places + random.normal(scale=0.05, size=places.shape), a * cells * np.eye(3), types, spins


def call(command: list[str], environment: dict) -> str:
    """Output of a command. RuntimeError where it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"DeePMD-kit could not be run: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RuntimeError(f"DeePMD-kit failed: {said}")
    return done.stdout
