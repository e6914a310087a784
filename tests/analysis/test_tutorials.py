"""The scripts of the tutorials, shortened: they run as they are, print what they promise and draw their figures."""

import os
import re
import subprocess
import sys

import pytest


@pytest.fixture
def script(root, tmp_path):
    def start(name, *options):
        command = [sys.executable, str(root / "docs" / "examples" / name), *options]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def test_equilibration(script, tmp_path):
    text = script("spin_lattice_equilibration.py", "--steps", "1500", "--runs", "runs")
    lattice, spins = map(float, re.search(r"0.3 to .* lattice +([\d.]+) ± .*, spin +([\d.]+) ±", text).groups())
    assert 900.0 < lattice < 1040.0 and 60.0 < spins < 130.0
    assert float(re.search(r"kept to ([\d.]+)", text)[1]) < 0.05
    assert (tmp_path / "spin_lattice_equilibration.png").stat().st_size > 30_000
    assert (tmp_path / "runs" / "equilibration.h5").is_file()


@pytest.mark.physics
def test_curie_temperature_of_iron(script, tmp_path):
    text = script("curie_iron.py")
    value, error = map(float, re.search(r"critical_temperature +([\d.]+) ± ([\d.]+) K", text).groups())
    assert abs(value - 918.0) < 8.0 and error < 4.0
    assert (tmp_path / "curie_iron.png").stat().st_size > 30_000
