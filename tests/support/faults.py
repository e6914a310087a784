"""Disks that fail on command, for tests: builds ``faults.c`` and drives ``crash_server.py`` under it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

HERE = Path(__file__).parent
COUNT, KILL, TORN, REFUSE = range(4)
WRITES, SYNCS, CREATES, NAMES, REMOVES = 1, 2, 4, 8, 16
NO_ROOM = WRITES | CREATES
EVERYTHING = WRITES | SYNCS | CREATES | NAMES | REMOVES


def build_shim(folder: Path) -> Path:
    """The shared library to preload; skips the test where it cannot be made."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler (cc) for the library that makes calls fail")
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faults.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


class Server:
    """One process that has the libraries loaded and forks for each job."""

    def __init__(self, library: Path):
        # numba's own thread pool, unlike OpenMP's, may be forked
        environment = dict(os.environ, LD_PRELOAD=str(library), NUMBA_THREADING_LAYER="workqueue")
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        root = HERE.parents[1]
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "crash_server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, cwd=root, stderr=self._complaints,
        )  # fmt: skip

    def do(self, job: str, path: Path, mode: int = COUNT, *, at=-1, end=-1, errno=0, kinds=0, arguments=None, **more):
        """Run a job of ``crash_server.Engine`` under a fault; its answer."""
        faults = {"mode": mode, "at": at, "end": end, "errno": errno, "kinds": kinds}
        request = {"job": job, "path": str(path), "faults": faults, "arguments": arguments or {}, **more}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.complaints()
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self._complaints.close()

    def complaints(self) -> str:
        """What the server and its children have written to stderr so far."""
        self._complaints.seek(0)
        return self._complaints.read().decode()


def content(path: Path, checkpoint: bool = True) -> dict[str, np.ndarray]:
    """Every dataset of a run's file, as any HDF5 reader sees it: name -> values.

    Without the note that a checkpoint carries, which tells seconds and the commit.
    """
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.endswith("checkpoint/meta"):
            values = item[()]
            found[name] = np.frombuffer(values, "u1") if isinstance(values, bytes) else values

    with h5py.File(path, "r") as file:
        file.visititems(visit)  # does not follow links into other files
        if "spinmd/checkpoint" in file:
            file["spinmd/checkpoint"].visititems(lambda name, item: visit(f"spinmd/checkpoint/{name}", item))
    return {name: value for name, value in found.items() if checkpoint or not name.startswith("spinmd/checkpoint/")}


def assert_same(path: Path, expected: dict[str, np.ndarray], steps: int | None = None) -> None:
    """Bitwise the expected content; with ``steps``, of its rows up to that step only: none missing, none twice."""
    found = content(path, checkpoint=steps is None)
    frames, thermo = expected["particles/trajectory/box/edges/step"], expected["spinmd/thermo/step"]
    if steps is not None:
        expected = {name: value for name, value in expected.items() if not name.startswith("spinmd/checkpoint/")}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if steps is not None and name.startswith("particles") and name.count("/") > 2:
            value = value[frames <= steps]
        if steps is not None and name.startswith("spinmd/thermo"):
            value = value[thermo <= steps]
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name
