"""Gaps, few wave vectors, energies that are folded back or shifted by the time step, and maps with empty segments."""

import numpy as np
import pytest
from support.waves import EDGE, J, ferromagnet, magnet, run

from spinmd import Trajectory, analysis
from spinmd.analysis import sqw
from spinmd.analysis.figures import point_name
from spinmd.cli import main
from spinmd.errors import InputError


@pytest.fixture(scope="module")
def hexagonal(tmp_path_factory):
    """hcp, frames so far apart that all waves but the lowest are folded back."""
    deck = magnet("hcp", (4, 4, 2), 12.0 * J, steps=400)
    deck["integrator"]["timestep"] = "2 fs"
    deck["output"]["trajectory"] = 5
    with Trajectory(run(tmp_path_factory.mktemp("hcp"), "hcp", deck)) as trajectory:
        yield trajectory


def test_stiffness_above_a_gap(tmp_path):
    """ħω = 4K/M + D q² + ...; without the gap D came out many times too large."""
    deck = magnet("sc", (16, 3, 3), 0.01, steps=2000)
    deck["potential"].append({"kind": "anisotropy", "parameters": {"K": 0.002}})
    deck["integrator"]["timestep"] = "2 fs"
    with Trajectory(run(tmp_path, "easy", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="0,0,0 1/2,0,0", segments=1)
        assert result["gap"] == pytest.approx(4.0, rel=0.01)
        assert result["stiffness"] == pytest.approx(90.0, rel=0.01)
        assert 0.0 < result.error("stiffness") < 2.0
        # the same where no peak is seen at Γ: from the fit
        hidden = analysis.dynamical_structure_factor(trajectory, path="0,0,0 1/2,0,0", segments=8)
    assert any("gap there comes from the fit" in note for note in hidden.notes)
    assert abs(hidden["stiffness"] - 90.0) < 3.0 * hidden.error("stiffness")
    assert abs(hidden["gap"] - 4.0) < 3.0 * hidden.error("gap")


def test_an_easy_plane_has_no_stiffness(tmp_path):
    """E² = D q² (D q² + 4|K|/M) begins linearly, which no fit of D can tell from a gap."""
    deck = magnet("sc", (16, 2, 2), 0.01, steps=1000)
    deck["potential"].append({"kind": "anisotropy", "parameters": {"K": -0.002}})
    deck["structure"]["spins"]["direction"] = [1, 0, 0]
    with Trajectory(run(tmp_path, "plane", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="0,0,0 1/2,0,0", segments=1)
    assert "stiffness" not in result and any("easy plane" in note for note in result.notes)


def test_velocity_above_a_gap(tmp_path):
    """E² = (z J + 2K)² (g/M)² − (z J γ)² (g/M)²: c is that of the isotropic antiferromagnet, z J a/2 along an axis of bcc."""
    deck = magnet("bcc", (8, 8, 2), -0.008, steps=48)
    deck["structure"]["spins"] = {
        "moments": {"Fe": 2.0}, "texture": "antiferromagnetic", "wavevector": [0, 0, 1], "direction": [0, 0, 1],
    }  # fmt: skip
    deck["potential"].append({"kind": "anisotropy", "parameters": {"K": 0.0005}})
    deck["integrator"] |= {"ensemble": "langevin", "spin_damping": 0.5, "temperature": "1 K", "timestep": "2 fs"}
    deck["stage"] = [{"integrator": {"ensemble": "nve"}, "run": {"steps": 2000}}]
    with Trajectory(run(tmp_path, "afm", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="0,0,0 1,0,0", segments=1)
    gap = 1.0e3 * np.sqrt((8 * 0.008 + 2 * 0.0005) ** 2 - (8 * 0.008) ** 2)
    exact = 64.0 * EDGE / 2.0 * 100.0 / 0.6582119569
    assert result["gap"] == pytest.approx(gap, rel=0.02)
    found, error = result["spin_wave_velocity_along"][0], result.error("spin_wave_velocity_along")[0]
    assert abs(found - exact) < 3.0 * error and error < 0.1 * exact


def test_two_wave_vectors_make_a_large_error(tmp_path):
    """A ferrimagnet bends soon: two points in the inner half give 8 % less than D = J_A J_B/(J_B − J_A) a²/4."""
    deck = magnet("B2", (8, 2, 2), -0.008, steps=2000)
    del deck["structure"]["element"]
    deck["structure"] |= {"elements": ["Fe", "Co"]}
    deck["structure"]["spins"] = {
        "moments": {"Fe": 2.5, "Co": 1.0}, "texture": "antiferromagnetic", "wavevector": [1, 0, 0], "direction": [0, 0, 1],
    }  # fmt: skip
    deck["integrator"] |= {"timestep": "1 fs", "ensemble": "langevin", "spin_damping": 0.2, "temperature": "1 K"}
    deck["run"]["steps"] = 100
    deck["stage"] = [{"integrator": {"ensemble": "nve"}, "run": {"steps": 3000}}]
    with Trajectory(run(tmp_path, "ferri", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="0,0,0 1/2,0,0", segments=1)
    small, q = 1.0e-3, np.pi / EDGE * 1.0e-3
    one, two = 128.0 / 2.5, 128.0
    lower = 0.5 * (one - two + np.sqrt((one + two) ** 2 - 4.0 * one * two * np.cos(np.pi * small / 2.0) ** 2))
    exact = lower / q**2
    assert result.error("stiffness") > 0.03 * exact
    assert abs(result["stiffness"] - exact) < 2.0 * result.error("stiffness")


def test_folded_energies_are_noticed_by_torques(hexagonal, tmp_path, capsys):
    """Waves up to 400 meV, frames that hold 207: the spectrum is quiet below that, and the run's own torques tell."""
    plain = analysis.dynamical_structure_factor(hexagonal, fit=False)
    assert not any("folded back" in note for note in plain.notes)
    command = ["analyze", "sqw", str(hexagonal.path), "--no-fit", "--path", "G-M"]
    assert main(command) == 0
    assert "folded back" in capsys.readouterr().out
    assert main([*command, "--spin-waves"]) == 0
    assert "folded back" in capsys.readouterr().out


def test_energies_within_the_frames_have_no_such_note(tmp_path, capsys):
    path = run(tmp_path, "fine", magnet("sc", (4, 4, 4), steps=400))
    assert main(["analyze", "sqw", str(path), "--path", "G-X-M-R", "--spin-waves"]) == 0
    assert "folded back" not in capsys.readouterr().out


def test_shift_of_the_midpoint_rule(tmp_path):
    """tan(E h/2ħ) = E₀ h/2ħ: what the note says is the exact energy."""
    deck = magnet("sc", (2, 2, 2), 8.0 * J, steps=2000)
    deck["integrator"]["timestep"] = "2 fs"
    deck["output"]["trajectory"] = 2
    with Trajectory(run(tmp_path, "slow", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="G-X-M-R")
    exact = ferromagnet(result["q"], "sc", 8.0 * J).max()
    (note,) = [note for note in result.notes if "midpoint solver" in note]
    assert float(note.split(" instead of ")[1].split()[0]) == pytest.approx(exact, rel=2e-3)
    assert np.nanmax(result["branch_energy"]) < 0.98 * exact
    deck["integrator"]["spin_solver"] = "runge-kutta"
    with Trajectory(run(tmp_path, "fourth", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="G-X-M-R")
    assert not any("midpoint solver" in note for note in result.notes)


def test_segments_without_wave_vectors_stay_empty(hexagonal, monkeypatch):
    """On 5 cells along c nothing of A-L-H-A fits: no strip may reach there."""
    result = analysis.dynamical_structure_factor(hexagonal, fit=False)
    ticks, names = result["label_distance"], result["label"]
    strips = list(sqw._strips(result["distance"], result["segment"], ticks, names))
    for edges, shown in strips:
        k = result["segment"][shown[-1]]
        assert ticks[k] <= edges[0] and edges[-1] <= ticks[k + 1] and (np.diff(edges) > 0.0).all()
        assert len(edges) == len(shown) + 1
    few = [(np.array([0.0, 0.5, 1.0, 3.5]), np.array([0, 0, 0, 3]))]
    for distance, segment in few:
        strips = list(sqw._strips(distance, segment, np.array([0.0, 1.0, 2.0, 3.0, 4.0]), ["A", "B", "C|D", "E", "F"]))
    assert [edges.tolist() for edges, _ in strips] == [[0.0, 0.25, 0.75, 1.0], [3.0, 4.0]]


def test_names_of_points():
    assert [point_name(name) for name in ("Γ", "T_2", "X|R_2", "SIGMA_0")] == ["Γ", "T$_{2}$", "X|R$_{2}$", "Σ$_{0}$"]


@pytest.mark.parametrize(
    "options, words",
    [({"branches": -1}, "--no-fit"), ({"temperature": 5.0}, "add --quantum"), ({"branches": 0}, "at least 1")],
)
def test_mistakes(hexagonal, options, words):
    with pytest.raises(InputError, match=words):
        analysis.dynamical_structure_factor(hexagonal, **options)
