"""Disks that fail on command, for tests: builds ``faults.c`` and drives ``crash_server.py`` under it."""

import json
import os
import shutil
import subprocess
import sys
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
        environment = dict(os.environ, LD_PRELOAD=str(library))
        root = HERE.parents[1]
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "crash_server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, cwd=root,
        )  # fmt: skip

    def do(self, job: str, path: Path, mode: int = COUNT, *, at=-1, end=-1, errno=0, kinds=0, arguments=None, **more):
        """Run a job of ``crash_server.Engine`` under a fault; its answer."""
        faults = {"mode": mode, "at": at, "end": end, "errno": errno, "kinds": kinds}
        request = {"job": job, "path": str(path), "faults": faults, "arguments": arguments or {}, **more}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the server has died"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)


def content(path: Path, skip=("spinmd/checkpoint",)) -> dict[str, np.ndarray]:
    """Every dataset of a run's file, as any HDF5 reader sees it: name -> values."""
    found = {}
    with h5py.File(path, "r") as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and not name.startswith(skip):
                values = item[()]
                found[name] = np.frombuffer(values, "u1") if isinstance(values, bytes) else values

        file.visititems(visit)
        if "spinmd/checkpoint" in file and not skip:
            group = file["spinmd/checkpoint"]
            group.visititems(lambda name, item: visit(f"spinmd/checkpoint/{name}", item))
    return found


def assert_same(path: Path, expected: dict[str, np.ndarray], steps: int | None = None) -> None:
    """Bitwise the expected content; with ``steps``, of its rows up to that step only: none missing, none twice."""
    found = content(path, skip=() if steps is None else ("spinmd/checkpoint",))
    frames, thermo = "particles/trajectory/box/edges/step", "spinmd/thermo/step"
    for name, value in expected.items():
        if steps is not None and name.startswith("spinmd/checkpoint"):
            continue
        if steps is not None and name.startswith("particles") and name.count("/") > 2:
            value = value[expected[frames] <= steps]
        if steps is not None and name.startswith("spinmd/thermo"):
            value = value[expected[thermo] <= steps]
        assert name in found, name
        same = found[name].dtype == value.dtype and found[name].shape == value.shape
        assert same and found[name].tobytes() == value.tobytes(), (name, found[name].shape, value.shape)
    assert found.keys() == {n for n in expected if steps is None or not n.startswith("spinmd/checkpoint")}
