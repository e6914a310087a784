"""Distributions of moments, from runs whose distribution is known."""

import numpy as np
import pytest

import spinmd
from spinmd import analysis
from spinmd.cli import main
from spinmd.errors import InputError


def run(folder, name="a", ensemble=None, potential=None, **spins):
    """A free paramagnet, or what ``potential`` makes of it."""
    deck = {
        "structure": {"prototype": "sc", "element": "Fe", "lattice_constant": 3.0, "supercell": [10, 10, 10],
                      "spins": {"moments": {"Fe": 2.0}, **spins}},
        "potential": potential or [{"kind": "zeeman", "parameters": {"field": [0, 0, 10]}}],
        "integrator": {"ensemble": "nve", "timestep": "5 fs", "lattice": "frozen", **(ensemble or {})},
        "run": {"steps": 100, "seed": 1},
        "output": {"file": str(folder / f"{name}.h5"), "thermo": 10, "trajectory": 5, "checkpoint": 0},
    }  # fmt: skip
    with spinmd.build(spinmd.load_deck(deck), threads=1) as simulation:
        simulation.run()
    return spinmd.Trajectory(folder / f"{name}.h5")


def test_random_moments_have_a_flat_cosine(tmp_path):
    """Precession keeps cos θ; 1000 random moments lie evenly in it, within the error of counting."""
    with run(tmp_path, texture="random") as one:
        result = analysis.moment_distributions(one[:1], analysis.Window(start=0.0), axis=(0, 0, 3.0), bins=10)
    density, error = result["cosine_density"], result.error("cosine_density")
    assert density.sum() * 0.2 == pytest.approx(1.0, abs=1e-12)
    assert (np.abs(density - 0.5) < 4.0 * error).all() and error.max() < 0.08
    assert result["mean_length"] == pytest.approx(2.0) and result["length_deviation"] < 1e-6
    assert abs(result["mean_angle"] - 90.0) < 4.0


def test_moments_in_a_bath_follow_boltzmann(tmp_path):
    """p(cos θ) ∝ exp(κ cos θ), κ = µB/(k_B T) = 3: the thermal texture is that distribution, and the bath keeps it."""
    kappa = 3.0
    temperature = 2.0 * 5.7883818060e-5 * 10.0 / (8.617333262e-5 * kappa)
    mean = 1.0 / np.tanh(kappa) - 1.0 / kappa
    bath = {"ensemble": "langevin", "temperature": temperature, "spin_damping": 1.0}
    with run(tmp_path, ensemble=bath, texture="thermal", magnetisation=mean) as one:
        result = analysis.moment_distributions(one, axis=(0, 0, 1), bins=8)
        edges = np.linspace(-1.0, 1.0, 9)
        exact = np.diff(np.exp(kappa * edges)) / (2.0 * np.sinh(kappa)) / 0.25
        # moments turn once in some frames: about 3 of the 17 frames are independent
        assert np.abs(result["cosine_density"] - exact).max() < 5.0 * (3.0 * result.error("cosine_density")).max()
        assert result["mean_cosine"] == pytest.approx(mean, abs=0.05)
        about_mean = analysis.moment_distributions(one)
        assert about_mean["mean_cosine"] == pytest.approx(result["mean_cosine"], abs=0.01)


def test_a_cone_has_one_angle(tmp_path):
    with run(tmp_path, texture="cone", angle=60) as one:
        result = analysis.moment_distributions(one, bins=100, axis=(0, 0, 1))
    assert result["mean_angle"] == pytest.approx(60.0, abs=1e-6)
    filled = np.flatnonzero(result["cosine_density"])
    assert result["cosine"][filled] == pytest.approx(0.5, abs=0.02)


def test_what_makes_no_distribution_is_refused(tmp_path, capsys):
    run(tmp_path, texture="random").close()
    file = str(tmp_path / "a.h5")
    for options, words in (
        (["--bins", "1"], "--bins: expected at least 2"),
        (["--bins", "100000000"], "--bins: expected at most 100000"),
        (["--lengths", "2"], "--lengths: expected two numbers"),
        (["--axis", "0,0"], "--axis: expected three numbers"),
        (["--from", "soon"], "--from"),
        (["--from", "1 K"], "--from"),
        (["-o", str(tmp_path / "none" / "d.h5")], "--output: there is no folder"),
        (["-o", file], "--output: "),
        (["--average"], "at least two runs"),
    ):
        assert main(["analyze", "distributions", file, *options]) == 2
        assert words in capsys.readouterr().err, words
    pair = {"kind": "lennard-jones", "parameters": {"epsilon": 0.01, "sigma": 2.6, "cutoff": 5.0}}
    bare = run(tmp_path, "bare", potential=[pair], moments={}, ensemble={"lattice": "moving"})
    with bare, pytest.raises(InputError, match="magnetic moment"):
        analysis.moment_distributions(bare)


def test_pieces_do_not_matter(tmp_path, monkeypatch):
    with run(tmp_path, texture="random") as one:
        whole = analysis.moment_distributions(one)
        monkeypatch.setattr("spinmd.analysis.reading.MEGABYTES", 0.05)
        pieces = analysis.moment_distributions(one)
        for name in whole.quantities:
            assert np.allclose(whole[name], pieces[name], rtol=1e-12, atol=0)
