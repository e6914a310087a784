"""``spinmd analyze spin-waves`` and ``sqw --spin-waves``: files, figures, notes, mistakes; intensities of a Monte Carlo run."""

import hashlib

import numpy as np
import pytest

import spinmd
from spinmd import Trajectory
from spinmd.analysis import read_result
from spinmd.cli import main
from spinmd.units import BOLTZMANN

DECK = """
[structure]
prototype = "sc"
element = "Fe"
lattice_constant = 3.0
supercell = [8, 2, 2]

[structure.spins]
moments = { Fe = 2.0 }
texture = "cone"
angle = 2

[[potential]]
kind = "exchange"
parameters = { form = "shells", J = [0.01] }

[[potential]]
kind = "anisotropy"
parameters = { K = 0.0005 }

[integrator]
ensemble = "nve"
timestep = "4 fs"
lattice = "frozen"

[run]
steps = 1500

[output]
file = "run.h5"
trajectory = 10
thermo = 100
checkpoint = 0
"""


def energy(q, j=0.01, k=0.0005, m=2.0, a=3.0):
    """meV"""
    return 1e3 * (2.0 / m) * (2.0 * j * (3.0 - np.cos(a * q).sum(axis=-1)) + 2.0 * k)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "deck.toml").write_text(DECK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_numbers_and_figure_of_a_deck(folder, capsys):
    assert (
        main(
            [
                "analyze",
                "spin-waves",
                "deck.toml",
                "--points",
                "60",
                "--temperature",
                "10",
                "-o",
                "out.h5",
                "--plot",
                "out.png",
            ]
        )
        == 0
    )
    result = read_result("out.h5")
    q = result["q"]
    np.testing.assert_allclose(result["energy"][:, 0], energy(q), rtol=1e-9)
    np.testing.assert_allclose(result["intensity"][:, 0], 4.0 * 1e4 * BOLTZMANN / energy(q), rtol=1e-9)
    assert result["gap"] == pytest.approx(1.0) and result["stiffness"] == pytest.approx(1e3 * 0.01 * 9.0)
    assert result["top"] == pytest.approx(121.0, rel=1e-3)
    width = np.diff(result["dos_energy"])[0]
    assert result["dos"].sum() * width == pytest.approx(1.0, abs=0.01)
    assert list(result["label"]) == ["Γ", "X", "M", "Γ", "R", "X|R", "M"]
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "stiffness" in capsys.readouterr().out
    assert main(["plot", "out.h5", "-o", "again.png"]) == 0


def test_several_decks_come_into_one_figure(folder):
    weak = DECK.replace("J = [0.01]", "J = [0.005]").replace("lattice_constant = 3.0", "lattice_constant = 2.7")
    (folder / "weak.toml").write_text(weak)
    assert (
        main(["analyze", "spin-waves", "deck.toml", "weak.toml", "-o", "out.h5", "--plot", "out.svg", "--quiet"]) == 0
    )
    result = read_result("out.h5")
    np.testing.assert_allclose(result["stiffness"], [90.0, 36.45], rtol=1e-9)
    assert "weak" in (folder / "out.svg").read_text()


def test_waves_of_an_alloy_are_unfolded(folder):
    """54 waves at each wave vector of the lattice; both elements alike they are those of the pure crystal, seen at its own q."""
    alloy = DECK.replace("supercell = [8, 2, 2]", "supercell = [6, 3, 3]\nalloy = { Co = 0.5 }")
    (folder / "alloy.toml").write_text(alloy.replace("Fe = 2.0", "Fe = 2.0, Co = 2.0000001"))
    command = ["analyze", "spin-waves", "alloy.toml", "--points", "8", "-o", "out.h5", "--plot", "out.png", "--quiet"]
    assert main(command) == 0
    result = read_result("out.h5")
    assert result["energy"].shape[1] == 54 and (folder / "out.png").exists()
    strength = result["strength"]
    mean = (strength * result["energy"]).sum(axis=1) / strength.sum(axis=1)
    np.testing.assert_allclose(mean, energy(result["q"]), rtol=1e-5)


def test_theory_lies_over_the_map_of_a_run(folder):
    with spinmd.build("deck.toml") as simulation:
        simulation.run()
    before = hashlib.sha256((folder / "run.h5").read_bytes()).hexdigest()
    command = [
        "analyze",
        "sqw",
        "run.h5",
        "--path",
        "0,0,0 1/2,0,0",
        "--spin-waves",
        "-o",
        "map.h5",
        "--plot",
        "map.png",
        "--quiet",
    ]
    assert main(command) == 0
    result = read_result("map.h5")
    peaks, distance = result["branch_energy"][1:, 0], result["distance"][1:]
    theory = np.interp(distance, result["overlay_distance"], result["overlay_energy"][:, 0])
    np.testing.assert_allclose(theory, energy(result["q"][1:]), rtol=1e-3)
    np.testing.assert_allclose(peaks, theory, rtol=0.01)
    assert main(["analyze", "spin-waves", "run.h5", "--path", "G-X", "-o", "waves.h5", "--quiet"]) == 0
    waves = read_result("waves.h5")
    np.testing.assert_allclose(waves["energy"][:, 0], energy(waves["q"]), rtol=1e-9)
    assert hashlib.sha256((folder / "run.h5").read_bytes()).hexdigest() == before


def test_intensities_are_those_of_monte_carlo(folder):
    """⟨|S^x_q|² + |S^y_q|²⟩/N of a run at 2 K is the intensity at +ω and, the same, at −ω."""
    changes = {
        "integrator": {"ensemble": "monte-carlo", "lattice": "frozen", "temperature": 2.0},
        "run": {"steps": 12000, "seed": 5},
        "output": {"file": "mc.h5", "trajectory": 6, "thermo": 1000, "checkpoint": 0, "quantities": ["spins"]},
    }
    with spinmd.build(spinmd.load_deck("deck.toml", changes)) as simulation:
        simulation.run()
    command = ["analyze", "spin-waves", "mc.h5", "--path", "0,0,0 1/2,0,0", "--points", "4", "--temperature", "2 K"]
    assert main([*command, "-o", "waves.h5", "--quiet"]) == 0
    waves = read_result("waves.h5")
    with Trajectory("mc.h5") as run:
        spins, sites = run.spins[200:], run.sites
    sums = np.einsum("qn,fna->fqa", np.exp(-1j * waves["q"] @ sites.T), spins[:, :, :2])
    static = (np.abs(sums) ** 2).sum(axis=2).mean(axis=0) / len(sites)
    np.testing.assert_allclose(static, 2.0 * waves["intensity"][:, 0], rtol=0.1)
    assert np.mean(static / (2.0 * waves["intensity"][:, 0])) == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize(
    "options, words",
    [
        ("deck.toml --state sideways", "there is no state"),
        ("deck.toml --path G-Q", "has no point 'Q'"),
        ("deck.toml --points 1", "--points"),
        ("deck.toml --temperature -1", "--temperature"),
        ("deck.toml --bins 2", "--bins"),
        ("deck.toml --direction 0,0,0", "not all zero"),
        ("deck.toml --wavevector 0.1,0,0", "belongs to --state spiral"),
        ("deck.toml --state antiferromagnetic", "is ferromagnetic"),
        ("deck.toml --direction 1,0,1 --set potential.1.parameters.K=-0.5", ""),
        ("nothing.toml", "no such deck"),
        ("deck.toml --set structure.pbc=[false,false,false]", "open in all directions"),
        ("deck.toml deck.toml", "named twice"),
        ("deck.toml -o deck.toml", "says no format"),
    ],
)
def test_mistakes_on_the_command_line(folder, capsys, options, words):
    code = main(["analyze", "spin-waves", *options.split()])
    heard = capsys.readouterr()
    if not words:  # relaxed into its easy plane
        assert code == 0 and "aligned with their fields" in heard.out
        return
    assert code == 2
    assert words in heard.err and heard.err.count("\n") == 1 and "Traceback" not in heard.err


def test_a_state_that_is_no_minimum_gets_a_note(folder, capsys):
    command = ["analyze", "spin-waves", "deck.toml", "--state", "ferromagnetic", "-o", "out.h5", "--plot", "out.png"]
    assert main([*command, "--set", "potential.0.parameters.J=[-0.01]"]) == 0
    assert "is no minimum" in capsys.readouterr().out
    result = read_result("out.h5")
    assert result["dos"].sum() * np.diff(result["dos_energy"])[0] == pytest.approx(1.0, abs=0.01)
    assert (folder / "out.png").exists()
