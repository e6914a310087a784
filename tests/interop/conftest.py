"""The real DeePMD-kit, in an environment of its own, driven as a program: `make test-interop` makes it and names it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent


class DeePMD:
    """Runs `dp` and deepmd_eval.py with the Python of an environment in which deepmd-kit is installed."""

    def __init__(self, python: str):
        self.python = Path(python).absolute()  # not resolved: the link tells Python which environment it is in
        root = self.python.parent.parent
        libraries = [root / "lib", *root.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")]
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "DP_INTRA_OP_PARALLELISM_THREADS": "1",
            "DP_INTER_OP_PARALLELISM_THREADS": "1",
        }
        self.environment.pop("PYTHONPATH", None)

    def call(self, *arguments, folder: Path) -> str:
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def dp(self, *arguments, folder: Path) -> None:
        self.call("-m", "deepmd", *arguments, folder=folder)

    def evaluate(self, model: Path, cell, positions, types, spins) -> dict[str, np.ndarray]:
        """energy, forces, force_mag, virial and atom_energy of one configuration, by DeepPot.eval."""
        folder = model.parent
        np.savez(folder / "in.npz", cell=cell, positions=positions, types=types, spins=spins)
        self.call(HERE / "deepmd_eval.py", model, folder / "in.npz", folder / "out.npz", folder=folder)
        with np.load(folder / "out.npz") as data:
            return dict(data)

    def train(self, settings: dict, folder: Path) -> None:
        """A training by the real program; leaves model.ckpt-N.pt and frozen.pth."""
        (folder / "input.json").write_text(json.dumps(settings))
        self.dp("--pt", "train", "input.json", folder=folder)
        self.dp("--pt", "freeze", "-o", "frozen.pth", folder=folder)


@pytest.fixture(scope="session")
def deepmd() -> DeePMD:
    python = os.environ.get("SPINMD_DEEPMD_PYTHON")
    if not python:
        pytest.fail(
            "SPINMD_DEEPMD_PYTHON must name the Python of an environment with deepmd-kit; run make test-interop"
        )
    return DeePMD(python)
