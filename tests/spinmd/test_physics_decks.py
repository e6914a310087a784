"""The physics decks of inputs/, shortened, against closed forms; docs/examples/physics.py compares and draws.

Expected numbers come from that script where it has them; what it could get wrong itself (its own solutions) is tested here, too.
"""

import importlib.util

import matplotlib
import numpy as np
import pytest

import spinmd

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def physics(root):
    specification = importlib.util.spec_from_file_location("physics", root / "docs" / "examples" / "physics.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def drawn(result) -> list:
    """The rows of a result whose figure has been drawn: every axis has a label, and there is a curve in every panel."""
    figure = matplotlib.figure.Figure(layout="constrained")
    result.draw(figure)
    figure.draw_without_rendering()
    assert all(axes.lines and axes.get_ylabel() for axes in figure.axes)
    assert figure.axes[-1].get_xlabel()
    return result.rows


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_damped_precession(physics, tmp_path, alpha):
    result = physics.damped_precession(tmp_path, {"integrator.spin_damping": alpha, "run.steps": 1500})
    frequency, rate, largest = drawn(result)
    assert frequency.measured == pytest.approx(frequency.exact, rel=2e-4)
    assert rate.measured == pytest.approx(rate.exact, rel=2e-4)
    assert largest.measured < 2e-3


def test_script_makes_a_figure(physics, tmp_path, capsys):
    physics.make("damped_precession", tmp_path, tmp_path)
    assert (tmp_path / "damped_precession.png").read_bytes().startswith(b"\x89PNG")
    assert "angular frequency ω" in capsys.readouterr().out


def test_langevin_paramagnet(physics, tmp_path):
    """Moments of 1, 2.2 and 5 µB between x = 0.9 and 4.5; a factor 2 in the noise, or a lost 1/|S|, is 50 times the error."""
    short = {"run.steps": 2500, "output.thermo": 20}
    rows = drawn(physics.langevin_paramagnet(tmp_path, short, temperatures=(15.0,)))
    assert len(rows) == 3
    for row in rows:
        assert 0.0 < row.error < 0.01
        assert abs(row.deviation) < 3.5 * row.error, str(row)


def switched(root, psi: float, part: float) -> bool:
    """Whether the macrospin of hysteresis.toml has left its minimum after 100 ps in ``part`` of the exact switching field."""
    field = -part * 17.276 * (np.cos(psi) ** (2 / 3) + np.sin(psi) ** (2 / 3)) ** -1.5
    changes = {
        "potential.0.parameters.axis": [float(np.sin(psi)), 0.0, float(np.cos(psi))],
        "potential.1.parameters.field.times": [0, 50, 100],
        "potential.1.parameters.field.fields": [[0, 0, 20.73], [0, 0, 0.98 * field], [0, 0, field]],
        "run.steps": 4000,
    }
    simulation = spinmd.build(spinmd.load_deck(root / "inputs" / "hysteresis.toml", changes), output=False, threads=1)
    simulation.run()
    caught = np.array([np.sin(psi), 0.0, np.cos(psi)])  # along the axis, on the side where it began
    return float(simulation.state.spins[0] @ caught) < 0.0


@pytest.mark.parametrize("angle", [10.0, 45.0, 80.0])
def test_a_macrospin_switches_at_the_field_of_stoner_and_wohlfarth(root, angle):
    assert not switched(root, np.radians(angle), 0.98)
    assert switched(root, np.radians(angle), 1.03)


def test_hysteresis_follows_the_exact_loop(physics, tmp_path):
    fast = {"potential.1.parameters.field.times": [0, 25, 175, 200, 225, 375, 400], "run.steps": 8000}
    (row,) = drawn(physics.hysteresis(tmp_path, fast, angles=(45.0,)))
    assert row.exact == pytest.approx(0.5)
    assert 0.5 < row.measured < 0.56  # a moment follows with a delay, and never switches early


def test_the_loops_of_the_script_end_where_the_formula_says(physics):
    h = np.linspace(1.2, -1.2, 961)
    for psi in np.radians([10.0, 45.0, 70.0]):
        jump = h[np.abs(np.diff(physics.stoner_wohlfarth(h, psi))).argmax()]
        assert -jump == pytest.approx((np.cos(psi) ** (2 / 3) + np.sin(psi) ** (2 / 3)) ** -1.5, abs=0.006)
    assert physics.stoner_wohlfarth(np.zeros(1), 0.3)[0] == pytest.approx(np.cos(0.3), abs=1e-8)


def test_domain_wall(physics, tmp_path):
    """Δ = 5 a instead of 10 a, which takes a quarter of the time; the continuum is 0.6 % off."""
    short = {"potential.1.parameters.K": "0.2 meV", "run.steps": 6000}
    continuum, chain, centre, largest = drawn(physics.domain_wall(tmp_path, short))
    assert continuum.exact == pytest.approx(15.0 * np.pi)
    assert continuum.measured == pytest.approx(continuum.exact, rel=0.01)
    assert chain.measured == pytest.approx(chain.exact, rel=1e-5)
    assert abs(centre.measured) < 1e-3 and largest.measured < 1e-4


def test_the_discrete_wall_of_the_script_has_the_decay_of_the_chain(physics):
    """Far from its centre the angle decays by exp(−κ) a site, 4 sinh²(κ/2) = 2K/J."""
    z = physics.discrete_wall(128, 0.02)
    ratio = np.sqrt((1.0 - z[30:40] ** 2) / (1.0 - z[31:41] ** 2))
    np.testing.assert_allclose(ratio, np.exp(-2.0 * np.arcsinh(np.sqrt(0.01))), rtol=2e-4)


def test_dmi_spiral(physics, tmp_path):
    """A thinner film, which twists in a quarter of the time."""
    short = {"structure.supercell": [20, 2, 2], "run.steps": 8000, "output.trajectory": 0, "output.thermo": 0}
    (row,) = drawn(physics.dmi_spiral(tmp_path, short, ratios=(0.7,)))
    assert row.exact == pytest.approx(30.8642, rel=1e-5)
    assert row.measured == pytest.approx(row.exact, rel=1e-4)


def test_equilibration_begins(physics, tmp_path):
    """54 atoms for 8 ps: energy flows from the lattice to the spins, and none is lost on the way."""
    short = {
        "structure.supercell": [3, 3, 3], "structure.spins.wavevector": [1 / 3, 0, 0], "stage.0.run.steps": 8000,
    }  # fmt: skip
    _, flow, change = drawn(physics.equilibration(tmp_path, short))
    thermo = spinmd.Trajectory(tmp_path / "equilibration.h5").thermo
    temperatures = thermo["spin_temperature"], thermo["lattice_temperature"]
    early, late = ((thermo["time"] > a) & (thermo["time"] < b) for a, b in ((0.1, 0.5), (6.5, 8.0)))
    assert temperatures[0][late].mean() > 1.5 * temperatures[0][early].mean()
    assert temperatures[1][late].mean() < temperatures[1][early].mean()
    assert flow.measured > 5.0
    assert flow.measured == pytest.approx(flow.exact, abs=0.2)
    assert change.measured < 0.2


def test_rigid_iron_has_the_magnetisation_of_spin_waves(physics):
    deck = spinmd.load_deck(physics.rigid_iron(6), {"integrator.temperature": 100, "run.steps": 1500})
    simulation = spinmd.build(deck, output=False, threads=1)
    simulation.run()
    m = simulation.thermo["magnetisation"][100:] / 2.2
    law = deck.tables["potential"][0]["parameters"]
    shells = [law["J0"] * (1.0 - r / law["cutoff"]) ** 3 for r in (2.8665 * np.sqrt(0.75), 2.8665)]
    expected = physics.spin_waves(6, shells, physics.BOLTZMANN * 100)
    assert 1.0 - m.mean() == pytest.approx(expected, rel=0.01)


def test_iron_loses_magnetisation(root):
    """Spins and lattice at 500 K: |m| is that of the rigid lattice, 0.827, within the error of a short run."""
    changes = {"integrator.temperature": 500, "run.steps": 2000, "output.thermo": 10, "structure.temperature": 1000}
    simulation = spinmd.build(
        spinmd.load_deck(root / "inputs" / "iron_magnetisation.toml", changes), output=False, threads=1
    )
    simulation.run()
    thermo = simulation.thermo
    late = thermo["time"] > 0.5
    assert thermo["magnetisation"][late].mean() / 2.2 == pytest.approx(0.827, abs=0.012)
    assert thermo["lattice_temperature"][late].mean() == pytest.approx(500, rel=0.08)
    assert thermo["spin_temperature"][late].mean() == pytest.approx(500, rel=0.05)


@pytest.mark.physics
def test_iron_comes_to_one_temperature(physics, tmp_path):
    temperature, flow, change = physics.equilibration(tmp_path).rows
    assert temperature.measured == pytest.approx(
        temperature.exact, abs=50
    )  # 4 standard errors of 12 K, of five blocks of 6 ps
    assert temperature.error < 30
    assert flow.measured == pytest.approx(flow.exact, abs=0.1) and change.measured < 0.1


@pytest.mark.physics
def test_curie_point_of_iron(physics, tmp_path):
    curie, waves, *magnetisations = drawn(physics.iron_magnetisation(tmp_path))
    assert curie.measured == pytest.approx(1070, abs=12)  # 4 standard errors; the mean field has 1356 K
    assert waves.measured == pytest.approx(waves.exact, abs=4 * waves.error)
    for row in magnetisations[:4]:  # far from the critical point, where the moving lattice changes little
        assert row.deviation == pytest.approx(0, abs=max(4 * row.error, 0.01)), str(row)
