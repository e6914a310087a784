"""Decks for the GPU, scaled down, run on the device as on the host; and the whole command line as a user would."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import spinmd
from spinmd.h5md import read_thermo

SMALL = {
    "structure.supercell": [1, 1, 1],
    "run.steps": 2,
    "stage.0.run.steps": 2,
    "output.thermo": 1,
    "output.trajectory": 2,
}


def test_the_deck_for_the_gpu_runs_there(root, tmp_path):
    tables = []
    for device in ("cuda", "cpu"):
        changes = {**SMALL, "output.checkpoint": 2, "output.file": str(tmp_path / f"{device}.h5")}
        with spinmd.build(
            root / "inputs/iron_gpu.toml", changes, device=None if device == "cuda" else device
        ) as simulation:
            summary = simulation.run()
        assert (summary["device"], summary["steps"]) == (device, 4)
        tables.append(simulation.thermo)
    for name, values in tables[0].items():
        scale = max(np.nanmax(np.abs(tables[1][name])), 1e-6)
        assert np.allclose(values, tables[1][name], rtol=0, atol=1e-10 * scale, equal_nan=True), name


def test_python_in_the_documentation_runs(root, monkeypatch, capsys):
    """The block of docs/gpu.md, with two atoms and two steps."""
    page = (root / "docs/gpu.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    for old, new in (("[4, 4, 4]", "[1, 1, 1]"), ("run(1000)", "run(2)")):
        assert old in block
        block = block.replace(old, new)
    monkeypatch.chdir(root)
    space: dict = {}
    exec(compile(block, "docs/gpu.md", "exec"), space)
    assert space["simulation"].state.clock.step == 4
    expected = space["simulation"].model.evaluate(spinmd.Need.ENERGY).energies
    assert capsys.readouterr().out.splitlines()[-1] == str(space["simulation"].evaluate().energies)
    assert np.allclose(space["simulation"].evaluate().energies, expected, rtol=1e-11)


@pytest.fixture
def command(root, tmp_path):
    """``command("run", ...)``: a command line in a process of its own; what it prints."""

    def go(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(root)}
        line = [sys.executable, "-m", "spinmd", *words]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return go


def test_command_line_from_start_to_resume_on_the_other_device(command, root, tmp_path, device):
    changes = [
        "structure.supercell=[1,1,1]",
        "run.steps=4",
        "output.thermo=1",
        "output.trajectory=2",
        "output.checkpoint=2",
    ]
    sets = [word for change in changes for word in ("--set", change)]
    deck = str(root / "inputs/bcc_iron.toml")
    name = "numba's simulator" if device == "simulator" else ""
    out = command(
        "run", deck, *sets, "--device", "cuda", "--set", f"output.file='{tmp_path}/a.h5'", "--summary", "a.json"
    )
    assert f"2 atoms, eam, exchange; {name}" in out and ", float64" in out
    assert "4 steps of 2 atoms in" in out and f"s on {name}" in out and "µs per atom-step" in out
    summary = json.loads((tmp_path / "a.json").read_text())
    assert summary["device"] == "cuda" and summary["device_name"].startswith(name) and summary["precision"] == "float64"
    command("run", deck, *sets, "--device", "cpu", "--set", f"output.file='{tmp_path}/b.h5'")
    command("resume", "a.h5", "--steps", "2", "--device", "cpu")
    command("resume", "b.h5", "--steps", "2", "--device", "cuda")
    a, b = read_thermo(tmp_path / "a.h5"), read_thermo(tmp_path / "b.h5")
    assert list(a["step"]) == [0, 1, 2, 3, 4, 5, 6]
    for column, values in b.items():
        scale = max(np.nanmax(np.abs(values)), 1e-6)
        assert np.allclose(a[column], values, rtol=0, atol=1e-10 * scale, equal_nan=True), column
    with spinmd.Trajectory(tmp_path / "a.h5") as one, spinmd.Trajectory(tmp_path / "b.h5") as other:
        assert [step for step, _ in one.devices] == [step for step, _ in other.devices] == [0, 4]
        assert one.devices[1][1] == other.devices[0][1] == "cpu"
        assert one.devices[0][1].startswith("cuda: ") and one.devices[0][1].endswith("; float64")
