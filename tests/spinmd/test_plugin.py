"""Potentials from outside: the worked example of docs/plugins.md, by "module:Class" and as an installed package."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

import spinmd
from spinmd import registry, units
from spinmd.cli import main


@pytest.fixture(scope="module")
def page(root):
    """The code blocks of docs/plugins.md by language."""
    text = (root / "docs" / "plugins.md").read_text(encoding="utf-8")
    blocks: dict[str, list[str]] = {}
    for language, code in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL):
        blocks.setdefault(language, []).append(code)
    return blocks


@pytest.fixture
def folder(page, tmp_path):
    """tether.py (under a name of its own, since modules are imported once) and the deck beside it."""
    name = f"tether_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(page["python"][0], encoding="utf-8")
    (tmp_path / "deck.toml").write_text(page["toml"][0].replace("tether:Tether", f"{name}:Tether"), encoding="utf-8")
    return tmp_path


def test_a_class_beside_the_deck(folder):
    with spinmd.build(folder / "deck.toml") as simulation:
        state, evaluation = simulation.state, simulation.evaluate()
        displacement = state.unwrapped() - state.reference
        assert evaluation.energy == pytest.approx(2.5 * (displacement**2).sum(), rel=1e-12) and evaluation.energy > 0.1
        np.testing.assert_allclose(evaluation.forces, -5.0 * displacement, rtol=1e-12, atol=1e-14)
        simulation.run()
        conserved = simulation.thermo["conserved"]
        # ω dt = 0.03: the energy of velocity Verlet oscillates by (ω dt)²/8 of itself
        assert (
            np.ptp(conserved) < 5e-4 * conserved[0] and np.ptp(simulation.thermo["kinetic_energy"]) > 0.5 * conserved[0]
        )


def test_parameters_of_a_plug_in_are_checked_like_any_other(folder, capsys):
    assert main(["run", str(folder / "deck.toml"), "--set", "potential.0.parameters={ stifness = 1 }"]) == 2
    error = capsys.readouterr().err
    assert "potential.0.parameters.stifness (--set): unknown name; did you mean 'stiffness'?" in error
    assert main(["run", str(folder / "deck.toml"), "--set", "potential.0.parameters.stiffness=-1"]) == 2
    assert "potential.0.parameters.stiffness (--set): must be greater than 0" in capsys.readouterr().err
    assert main(["run", str(folder / "deck.toml"), "--set", 'potential.0.pairs=["Fe-Fe"]']) == 2
    assert "cannot be restricted by pairs" in capsys.readouterr().err


def test_the_example_passes_the_conformance_kit(folder, page, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    name = next(folder.glob("tether_*.py")).stem
    exec(page["python"][1].replace("from tether", f"from {name}"), {})


def test_an_installed_package_adds_a_kind(page, tmp_path, root):
    """pip-installs the example into a folder, offline, and runs a deck with ``kind = "tether"`` in a new process."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "tether.py").write_text(page["python"][0], encoding="utf-8")
    (source / "setup.cfg").write_text(page["ini"][0], encoding="utf-8")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "--no-build-isolation", "--target", site, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "deck.toml").write_text(page["toml"][0].replace("tether:Tether", "tether"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(root)])}
    command = [sys.executable, "-m", "spinmd", "evaluate", "deck.toml", "-o", "out.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["energies"]["tether"] > 0.1 and found["virial"] is None
    done = subprocess.run([sys.executable, "-m", "spinmd", "schema"], env=environment, capture_output=True, text=True)
    assert "kind `tether`" in done.stdout and "stiffness" in done.stdout


def broken(folder, code):
    """A deck whose potential is the class Broken in a module with this code; returns the name of the module."""
    name = f"broken_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(code)
    text = (folder / "deck.toml").read_text()
    (folder / "deck.toml").write_text(re.sub(r'kind = ".*"', f'kind = "{name}:Broken"', text))
    return name


@pytest.mark.parametrize(
    "code, words",
    [
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("class Brokem: pass\n", "has no class 'Broken'; did you mean 'Brokem'?"),
        ("Broken = 1\n", "expected a class"),
        ("class Broken: pass\n", "it lacks Parameters (a pydantic model), prepare, margin, add, freeze"),
    ],
)
def test_a_plug_in_that_does_not_fit_is_named(folder, capsys, code, words):
    broken(folder, code)
    assert main(["run", str(folder / "deck.toml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spinmd: error: potential.0.kind (line 9): ") and words in error and error.count("\n") == 1


def test_an_instance_that_lacks_attributes_is_named(folder, page, capsys):
    broken(
        folder,
        page["python"][0]
        .replace("class Tether:", "class Broken:")
        .replace("    magnetic = False", "    spins = False"),
    )
    assert main(["run", str(folder / "deck.toml")]) == 2
    assert "lack magnetic" in capsys.readouterr().err


def test_two_packages_with_one_kind_are_refused(monkeypatch):
    points = [metadata.EntryPoint("twin", value, registry.GROUP) for value in ("one:A", "two:B")]
    monkeypatch.setattr(registry, "_installed", lambda: {"twin": points})
    with pytest.raises(spinmd.InputError, match="two installed packages offer the kind 'twin'"):
        registry.find("twin")


LIVE = '''
import numpy as np
from spinmd.parameters import Parameters
from spinmd.potentials.zeeman import Zeeman


class Broken(Zeeman):
    """Zeeman that stays live."""

    def freeze(self, state, pairs):
        return None
'''


def test_a_live_term_runs_with_midpoint_and_is_refused_by_the_sweep(folder, capsys):
    broken(folder, LIVE)
    text = (folder / "deck.toml").read_text()
    text = re.sub(r"parameters = .*", 'parameters = { field = [0, 0, "100 T"] }', text).replace(
        'spins = "frozen"', 'lattice = "frozen"'
    )
    text = text.replace(
        "[[potential]]", '[structure.spins]\nmoments = { Fe = 2.0 }\ntexture = "cone"\nangle = 30\n\n[[potential]]'
    )
    (folder / "deck.toml").write_text(text)
    with spinmd.build(folder / "deck.toml") as simulation:
        start = simulation.state.spins.copy()
        simulation.run()
        # dS/dt = −(g/ħ) S × F: a field along z turns all spins by +g µ_B B t/ħ about z
        angle = 2.0 * units.BOHR_MAGNETON * 100.0 / units.HBAR * 0.2
        turned = (start[:, 0] + 1j * start[:, 1]) * np.exp(1j * angle)
        got = simulation.state.spins[:, 0] + 1j * simulation.state.spins[:, 1]
        np.testing.assert_allclose(got, turned, atol=1e-4)
    assert main(["run", str(folder / "deck.toml"), "--set", "integrator.spin_solver=suzuki-trotter"]) == 2
    error = capsys.readouterr().err
    assert "integrator.spin_solver (--set)" in error and 'use spin_solver = "midpoint"' in error
