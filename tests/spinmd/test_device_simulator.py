"""tests/device in numba's simulator, which needs a process of its own; a file of its own, so that other tests run beside it."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("numba_cuda", reason="needs numba-cuda, the extra cuda or test")


def test_small_systems_in_the_simulator(root):
    """tests/device in a process with the simulator; its failures are shown here."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "tests/device",
    ]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 5 and "skipped" not in done.stdout, done.stdout[-500:]
