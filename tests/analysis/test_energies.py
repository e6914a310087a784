"""Heat capacity, temperatures and pressure of runs against closed forms and the engine's own numbers."""

import numpy as np
import pytest
from support.runs import crystal, magnet, run

from spinmd import Trajectory, analysis
from spinmd.analysis.heat_capacity import add_slope
from spinmd.analysis.results import side_by_side
from spinmd.cli import main
from spinmd.errors import InputError
from spinmd.units import BOHR_MAGNETON, BOLTZMANN


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """16 atoms in a bath of 10 K, where Morse atoms are harmonic."""
    deck = crystal(10.0, (2, 2, 2), steps=10000, output={"trajectory": 500})
    return Trajectory(run(deck, tmp_path_factory.mktemp("cold") / "cold.h5"))


def test_heat_capacity_of_a_harmonic_crystal(cold):
    """3 k_B per atom, half of it potential energy, of which the 3N − 3 modes have their part that do not move the whole."""
    result = analysis.specific_heat(cold)
    assert 0.0 < result.error("heat_capacity") < 0.35
    potential = 1.5 * 45 / 48
    assert abs(result["heat_capacity"] - 1.5 - potential) < 3.5 * result.error("heat_capacity")
    assert abs(result["heat_capacity_potential"] - potential) < 3.5 * result.error("heat_capacity_potential")
    assert result["heat_capacity_molar"] == pytest.approx(8.314462618 * result["heat_capacity"], rel=1e-6)


def test_heat_capacity_of_moments_in_a_field(tmp_path):
    """C/k_B = 1 − x²/sinh²x per moment, from fluctuations at three temperatures and from the slope between them."""
    results = []
    for k, kelvin in enumerate((18.0, 20.0, 22.0)):
        deck = magnet(kelvin, supercell=(8, 8, 8), J=None, field=(0, 0, 20.0), steps=1000, run={"seed": k + 1})
        results.append(analysis.specific_heat(Trajectory(run(deck, tmp_path / f"{k}.h5")), series=False))
    x = 2.0 * BOHR_MAGNETON * 20.0 / (BOLTZMANN * 20.0)
    exact = 1.0 - (x / np.sinh(x)) ** 2
    merged = add_slope(side_by_side(results))
    for name in ("heat_capacity", "heat_capacity_slope"):
        value, error = merged[name][1], merged.error(name)[1]
        assert 0.0 < error < 0.1 * exact
        assert abs(value - exact) < 3.5 * error, f"{name}: {value} ± {error}, expected {exact}"
    analysis.plot(merged, tmp_path / "c.png")
    assert "no slope dE/dT" in " ".join(add_slope(side_by_side([results[0]] * 2)).notes)


def test_heat_capacity_needs_a_bath(tmp_path, capsys):
    file = run(crystal(300.0, ensemble="nve", steps=50), tmp_path / "nve.h5")
    assert main(["analyze", "heat-capacity", str(file)]) == 2
    assert "constant energy or no bath (nve)" in capsys.readouterr().err
    ramp = magnet({"start": 10.0, "end": 50.0}, supercell=(3, 3, 3), steps=50)
    with pytest.raises(InputError, match="no single constant temperature"):
        analysis.specific_heat(Trajectory(run(ramp, tmp_path / "ramp.h5")))


def test_a_stage_has_its_own_ensemble(tmp_path):
    """A bath and then constant energy: refused; the other way round it is taken, over the last stage alone."""
    deck = crystal(300.0, steps=50)
    deck["stage"] = [{"integrator": {"ensemble": "nve"}}]
    with pytest.raises(InputError, match=r"no bath \(nve\)"):
        analysis.specific_heat(Trajectory(run(deck, tmp_path / "a.h5")))
    deck = crystal(300.0, ensemble="nve", steps=50)
    bath = {"ensemble": "langevin", "temperature": 200.0, "lattice_friction": 5.0}
    deck["stage"] = [{"integrator": bath, "run": {"steps": 100}}]
    result = analysis.specific_heat(Trajectory(run(deck, tmp_path / "b.h5")))
    assert result["temperature"] == 200.0 and result["step"].min() >= 70


def test_temperature_fluctuates_as_in_the_canonical_ensemble(cold):
    result = analysis.temperatures(cold)
    assert result["degrees_of_freedom"] == 48
    assert abs(result["lattice_temperature"] - 10.0) < 3.5 * result.error("lattice_temperature")
    assert result["lattice_deviation_expected"] == pytest.approx(result["lattice_temperature"] * np.sqrt(2 / 48))
    missing = result["lattice_deviation"] - result["lattice_deviation_expected"]
    assert abs(missing) < 3.5 * result.error("lattice_deviation") < 0.3
    assert "spin_temperature" not in result


def test_spin_temperature_of_monte_carlo_is_that_of_its_bath(tmp_path):
    trajectory = Trajectory(run(magnet(100.0, supercell=(8, 8, 8), steps=400), tmp_path / "mc.h5"))
    result = analysis.temperatures(trajectory)
    assert abs(result["spin_temperature"] - 100.0) < 3.5 * result.error("spin_temperature") < 2.0
    assert "lattice_temperature" not in result and result["bath_temperature"] == 100.0
    analysis.plot(result, tmp_path / "t.png")


def test_negative_spin_temperature_is_said(tmp_path):
    """Moments against their exchange have more energy than at any temperature: no susceptibility, and a note."""
    deck = magnet(0.0, supercell=(4, 4, 4), J=-0.01, steps=0)
    deck["structure"]["spins"] = {"moments": {"Fe": 2.0}, "texture": "cone", "angle": 30}
    deck["integrator"] = {"ensemble": "nve", "lattice": "frozen", "timestep": "1 fs"}
    trajectory = Trajectory(run(deck, tmp_path / "cone.h5"))
    result, order = analysis.temperatures(trajectory), analysis.magnetic_order(trajectory)
    assert result["spin_temperature"] < 0.0
    assert "spin temperature is negative in its only row" in " ".join(result.notes)
    assert np.isnan(order["susceptibility"]) and np.isnan(order["susceptibility_disordered"])
    assert "there are no susceptibilities" in " ".join(order.notes)
    assert "spin temperature is negative in its only row" in " ".join(order.notes)
    assert "one row alone has no errors" in " ".join(order.notes)
    assert not [note for note in order.notes if "stands for it" in note]


def test_pressure_is_that_of_the_table(cold, tmp_path):
    result = analysis.pressure_and_cell(cold)
    rows = cold.thermo["pressure"][cold.thermo["step"] >= 2000]
    assert result["pressure"] == pytest.approx(rows.mean(), rel=1e-12)
    assert result["a"] == pytest.approx(2.8665, abs=1e-12) and result["volume"] == pytest.approx((2 * 2.8665) ** 3)
    assert result["alpha"] == pytest.approx(90.0) and result.error("a") == 0.0
    analysis.plot(result, tmp_path / "p.png")


def test_stress_of_the_frames(cold, tmp_path, capsys):
    """The engine's virial at stored frames: −tr σ/3 is the pressure of the table's rows at the same steps."""
    out = tmp_path / "stress.h5"
    before = cold.path.read_bytes()
    assert main(["analyze", "pressure", str(cold.path), "--stress", "-o", str(out), "--quiet"]) == 0
    result = analysis.read_result(out)
    same = np.isin(cold.thermo["step"], cold.steps[cold.steps >= 2000])
    assert result["pressure_of_frames"] == pytest.approx(cold.thermo["pressure"][same].mean(), rel=1e-9)
    diagonal = [result[f"stress_{k}"] for k in ("xx", "yy", "zz")]
    assert -np.mean(diagonal) == pytest.approx(result["pressure_of_frames"], rel=1e-12)
    assert cold.path.read_bytes() == before and [p.name for p in cold.path.parent.iterdir()] == ["cold.h5"]


@pytest.mark.physics
def test_heat_capacity_within_three_per_cent(tmp_path):
    """Fluctuations and the slope between 10 and 30 K of 16 atoms, 1.5 (1 + 45/48) k_B."""
    results = []
    for seed, kelvin in enumerate((10.0, 20.0, 30.0)):
        deck = crystal(kelvin, (2, 2, 2), steps=150_000, run={"seed": seed})
        results.append(analysis.specific_heat(Trajectory(run(deck, tmp_path / f"{kelvin:g}.h5")), series=False))
    merged = add_slope(side_by_side(results))
    for name in ("heat_capacity", "heat_capacity_slope"):
        print(name, merged[name], merged.error(name))
        assert abs(merged[name][1] - 1.5 * (1.0 + 45 / 48)) < 3.5 * merged.error(name)[1] < 0.3
