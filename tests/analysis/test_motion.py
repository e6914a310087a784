"""Autocorrelation, densities of states, displacements and energy flow of runs of the engine."""

import numpy as np
import pytest
from support.waves import ferromagnet, magnet, phonons, run, springs

from spinmd import Trajectory, analysis
from spinmd.analysis.brillouin import allowed_points, primitive_cell
from spinmd.errors import InputError
from spinmd.units import AMU, BOLTZMANN


@pytest.fixture(scope="module")
def crystal(tmp_path_factory):
    with Trajectory(run(tmp_path_factory.mktemp("fcc"), "fcc", springs(4, steps=3000))) as trajectory:
        yield trajectory


@pytest.fixture(scope="module")
def magnons(tmp_path_factory):
    with Trajectory(run(tmp_path_factory.mktemp("sc"), "sc", magnet("sc", (6, 6, 6), steps=3000))) as trajectory:
        yield trajectory


@pytest.mark.parametrize("of", ["velocities", "spins"])
def test_autocorrelation_is_the_direct_sum(of, crystal, magnons):
    """Every frame is an origin once, although the frames come in blocks."""
    trajectory = crystal if of == "velocities" else magnons
    values = np.asarray(trajectory.array(of))
    for frames, lags in ((len(values), 47), (100, 30), (60, 59)):
        time = trajectory.times[1] - trajectory.times[0]
        found = analysis.time_autocorrelation(trajectory[:frames], of=of, max_time=lags * time)
        part = values[:frames]
        direct = np.array([(part[: frames - k] * part[k:]).sum() / (frames - k) for k in range(lags + 1)])
        assert found["correlation"] == pytest.approx(direct / direct[0], rel=1e-9, abs=1e-10)
        assert found["mean_square"] == pytest.approx(direct[0] / trajectory.natoms)
        assert found["integrated_time"] == pytest.approx(np.trapezoid(direct / direct[0], dx=time), rel=1e-8, abs=1e-9)


def test_velocity_autocorrelation_is_the_transform_of_the_density_of_states(crystal):
    """C(τ) = ∫ g(E) cos(Eτ/ħ) dE, up to the window of the spectrum."""
    density = analysis.density_of_states(crystal, segments=1, taper="none")
    found = analysis.time_autocorrelation(crystal, max_time=0.3)
    step = density["energy"][1] - density["energy"][0]
    phase = np.multiply.outer(found["time"], density["energy"] / 0.6582119569)
    assert np.cos(phase) @ density["density"] * step == pytest.approx(found["correlation"], abs=0.03)


def test_displacements_are_the_direct_sum(crystal):
    positions = np.asarray(crystal.positions)
    positions = positions - positions.mean(axis=1, keepdims=True)
    for frames, lags in ((len(positions), 50), (90, 40)):
        time = crystal.times[1] - crystal.times[0]
        found = analysis.mean_square_displacement(crystal[:frames], max_time=lags * time)
        part = positions[:frames]
        direct = [((part[k:] - part[: frames - k]) ** 2).sum(axis=2).mean() for k in range(lags + 1)]
        assert found["msd"] == pytest.approx(np.array(direct), rel=1e-8, abs=1e-12)


def test_amplitude_of_a_harmonic_crystal(crystal):
    """⟨u²⟩ = Σ_q,s k_B T/(m ω²)/N over all modes that the supercell allows, with the temperature that the run has."""
    cell = primitive_cell(crystal)
    modes = phonons(allowed_points(cell) @ cell.reciprocal)[0].ravel()
    modes = np.sort(modes)[3:] / 0.6582119569  # rad/ps, without translations
    temperature = crystal.thermo["lattice_temperature"][20:].mean()
    exact = (BOLTZMANN * temperature / (50.0 * AMU) / modes**2).sum() / crystal.natoms
    found = analysis.mean_square_displacement(crystal, max_time=1.0)
    assert found["mean_square_amplitude"] == pytest.approx(exact, rel=0.05)
    assert found["plateau"] == pytest.approx(2.0 * found["mean_square_amplitude"])


def test_density_of_phonons(crystal):
    """3N modes; the mean of E² is that of all modes of the supercell, to the scatter of their energies."""
    found = analysis.density_of_states(crystal, normalise="modes")
    step = found["energy"][1] - found["energy"][0]
    assert found["density"].sum() * step == pytest.approx(3 * crystal.natoms)
    smooth = analysis.density_of_states(crystal, normalise="modes", broadening=2.0)
    assert smooth["density"].sum() == pytest.approx(found["density"].sum())
    assert np.abs(np.diff(smooth["density"])).max() < 0.5 * np.abs(np.diff(found["density"])).max()
    cell = primitive_cell(crystal)
    modes = phonons(allowed_points(cell) @ cell.reciprocal)[0].ravel()
    square = (found["density"] * found["energy"] ** 2).sum() / found["density"].sum()
    assert square == pytest.approx((modes**2).mean(), rel=0.05)
    top = found["energy"] > modes.max() + 4.0 * found["resolution"]
    assert found["density"][top].sum() * step < 0.005 * 3 * crystal.natoms


def test_density_of_magnons(magnons):
    """Each moment is tilted at random, all magnons alike: the plain spectrum is then their density, and its mean energy 6 g J/M."""
    found = analysis.density_of_states(magnons, of="spins")
    step = found["energy"][1] - found["energy"][0]
    assert found["density"].sum() * step == pytest.approx(1.0)
    cell = primitive_cell(magnons)
    exact = ferromagnet(allowed_points(cell) @ cell.reciprocal, "sc")
    mean = (found["spectrum"] * found["energy"]).sum() / found["spectrum"].sum()
    assert mean == pytest.approx(exact.mean(), rel=0.05)
    weighted = (found["density"] * found["energy"]).sum() / found["density"].sum()
    assert weighted == pytest.approx((exact**2).mean() / exact.mean(), rel=0.05)


def test_elements_share_the_density(tmp_path):
    deck = springs(3, steps=600)
    deck["structure"] |= {"alloy": {"Co": 0.3}, "masses": {"Fe": 50.0, "Co": 10.0}, "temperature": 20.0}
    with Trajectory(run(tmp_path, "alloy", deck)) as trajectory:
        found = analysis.density_of_states(trajectory, segments=2)
        moved = analysis.mean_square_displacement(trajectory)
        with pytest.raises(InputError, match="--ignore-elements"):
            analysis.dynamical_structure_factor(trajectory, of="velocities")
        lattice = analysis.dynamical_structure_factor(trajectory, of="velocities", ignore_elements=True)
    assert found["density"] == pytest.approx(found["density_Fe"] + found["density_Co"])
    # each atom has three modes, whatever its mass
    assert found["density_Co"].sum() / found["density"].sum() == pytest.approx(0.3, rel=0.15)
    assert (found["density_Co"] * found["energy"]).sum() / found["density_Co"].sum() > found["mean_energy"]
    assert moved["msd"] == pytest.approx(0.7 * moved["msd_Fe"] + 0.3 * moved["msd_Co"], rel=0.02)
    assert "Γ" in lattice["label"]


def test_heat_of_a_bath(tmp_path):
    """A bath of friction γ takes a hot crystal to its temperature as e^{−γt}: half of its heat is potential energy."""
    friction = 4.0
    deck = springs(4, steps=1000, temperature=1000.0)
    deck["integrator"] |= {
        "ensemble": "langevin",
        "lattice_friction": friction,
        "lattice_temperature": 50.0,
        "temperature": 50.0,
    }
    deck["structure"]["spins"] = {"moments": {"Fe": 2.0}, "texture": "thermal", "magnetisation": 0.95}
    deck["potential"].append({"kind": "exchange", "parameters": {"form": "shells", "J": ["5 meV"]}})
    deck["output"] |= {"thermo": 5, "trajectory": 0}
    with Trajectory(run(tmp_path, "bath", deck)) as trajectory:
        found = analysis.flow_of_energy(trajectory, analysis.Window(start=0.3))
        whole = analysis.flow_of_energy(trajectory)
    assert found["relaxation_time"] == pytest.approx(1.0 / friction, rel=0.15)
    assert abs(found["relaxation_time"] - 1.0 / friction) < 4.0 * found.error("relaxation_time")
    # 2 × 3/2 k_B (1000 K/2 − 50 K) of each atom
    assert whole["bath_heat"][-1] == pytest.approx(-3e3 * BOLTZMANN * 450.0, rel=0.1)
    assert whole["imbalance"] < 0.01 * abs(whole["bath_heat"][-1])
    steady = np.trapezoid(whole["bath_rate"], whole["time"])
    assert steady == pytest.approx(whole["bath_heat"][-1], rel=0.03)


def test_energy_goes_to_and_fro_at_constant_energy(tmp_path, root):
    """Exchange that depends on distances: what the spins gain the lattice loses."""
    deck = {
        "structure": {
            "prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665, "supercell": [4, 4, 4], "temperature": "1200 K",
            "spins": {"moments": {"Fe": 2.2}, "texture": "thermal", "magnetisation": 0.98},
        },
        "potential": [
            {"kind": "eam", "parameters": {"file": str(root / "inputs/potentials/Fe_mm.eam.fs")}},
            {"kind": "exchange", "parameters": {"form": "polynomial", "J0": 0.905, "cutoff": 3.75, "offset": True}},
        ],
        "integrator": {"ensemble": "nve", "timestep": "0.5 fs"}, "run": {"steps": 800, "seed": 1, "threads": 1},
        "output": {"thermo": 2, "trajectory": 0},
    }  # fmt: skip
    with Trajectory(run(tmp_path, "iron", deck)) as trajectory:
        found = analysis.flow_of_energy(trajectory)
    assert np.abs(found["spin_energy"]).max() > 0.1
    assert found["imbalance"] < 0.2 * np.abs(found["spin_energy"]).max()
    assert found["lattice_energy"][-1] == pytest.approx(-found["spin_energy"][-1], abs=2.0 * found["imbalance"])
    assert found["transferred"] == found["spin_energy"][-1]
    assert np.abs(found["bath_heat"]).max() < 1e-9


@pytest.mark.physics
def test_two_ways_to_diffusion(tmp_path):
    """A Lennard-Jones liquid: the slope of the displacements and the integral of the velocity autocorrelation agree."""
    deck = {
        "structure": {
            "prototype": "fcc", "element": "Ar", "lattice_constant": 5.8, "supercell": [6, 6, 6], "temperature": "400 K",
        },
        "potential": [{"kind": "lennard-jones", "parameters": {"epsilon": 0.0103, "sigma": 3.4, "cutoff": 8.0, "smoothing": 1.0}}],
        "integrator": {"ensemble": "nve", "timestep": "5 fs"}, "run": {"steps": 2000, "seed": 1},
        "stage": [{"run": {"steps": 8000}}],
        "output": {"thermo": 20, "trajectory": 10, "quantities": ["positions", "velocities"], "precision": "float32"},
    }  # fmt: skip
    with Trajectory(run(tmp_path, "liquid", deck)) as trajectory:
        slope = analysis.mean_square_displacement(trajectory, max_time=8.0)
        integral = analysis.time_autocorrelation(trajectory, max_time=3.0)
    assert 0.1 < slope["diffusion"] < 2.0
    error = np.hypot(slope.error("diffusion"), integral.error("diffusion"))
    assert abs(slope["diffusion"] - integral["diffusion"]) < 4.0 * error + 0.03 * slope["diffusion"]
    assert error < 0.1 * slope["diffusion"]


@pytest.mark.parametrize(
    "what, options, words",
    [
        ("time_autocorrelation", {"of": "spins"}, "no atoms carry a magnetic moment"),
        ("time_autocorrelation", {"of": "momenta"}, "velocities or spins"),
        ("time_autocorrelation", {"max_time": 1e6}, "--max-time"),
        ("density_of_states", {"of": "spins"}, "no atoms carry a magnetic moment"),
        ("density_of_states", {"normalise": "two"}, "one or modes"),
        ("density_of_states", {"segments": 0}, "at least 1"),
        ("density_of_states", {"broadening": -1.0}, "0 or more"),
        ("density_of_states", {"broadening": float("inf")}, "--broadening"),
        ("density_of_states", {"max_energy": 1e-6}, "--max-energy"),
        ("time_autocorrelation", {"max_time": float("nan")}, "--max-time"),
        ("time_autocorrelation", {"max_time": float("inf")}, "--max-time"),
        ("mean_square_displacement", {"max_time": float("nan")}, "--max-time"),
        ("mean_square_displacement", {"max_time": 0.0}, "--max-time"),
        ("mean_square_displacement", {"element": "Xe"}, "holds no Xe"),
        ("flow_of_energy", {"smoothing": 0.0}, "positive time"),
    ],
)
def test_mistakes(crystal, what, options, words):
    with pytest.raises(InputError, match=words):
        getattr(analysis, what)(crystal, **options)


def test_a_part_of_the_atoms_where_the_memory_ends(crystal, monkeypatch):
    from spinmd.analysis import autocorrelation

    whole = analysis.time_autocorrelation(crystal, max_time=0.5)
    monkeypatch.setattr(autocorrelation, "MEMORY", 1.0e5)
    part = analysis.time_autocorrelation(crystal, max_time=0.5)
    assert any("every" in note for note in part.notes) and not any("every" in note for note in whole.notes)
    assert part["correlation"] == pytest.approx(whole["correlation"], abs=0.1)


def test_commands(crystal, magnons, tmp_path):
    """Each command writes numbers and a figure; of two runs side by side, too."""
    from typer.testing import CliRunner

    from spinmd.cli import app

    for k, (words, file) in enumerate((
        (["autocorrelation"], crystal), (["autocorrelation", "--of", "spins"], magnons), (["dos"], crystal), (["msd"], crystal),
        (["dos", "--of", "spins", "--max-energy", "30"], magnons), (["energy-flow"], magnons), (["sqw", "--path", "G-X"], magnons),
        (["sqw", "--of", "velocities", "--component", "longitudinal", "--no-fit"], crystal),
        (["dos", "--broadening", "1"], crystal),
    )):  # fmt: skip
        out, figure = tmp_path / f"{k}.h5", tmp_path / f"{k}.png"
        arguments = ["analyze", *words, str(file.path), "-o", str(out), "--plot", str(figure), "--quiet"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (words, done.output, done.exception)
        assert analysis.read_result(out).quantities and figure.stat().st_size > 5_000


def test_runs_side_by_side(crystal, tmp_path):
    """A hotter run beside the first one: a curve or a panel for each; what one of them does not have is NaN."""
    with Trajectory(run(tmp_path, "hot", springs(4, steps=3000, temperature=40.0))) as hot:
        for function, options in (
            (analysis.density_of_states, {}),
            (analysis.time_autocorrelation, {}),
            (analysis.mean_square_displacement, {}),
            (analysis.flow_of_energy, {}),
            (analysis.dynamical_structure_factor, {"of": "velocities", "component": "transverse"}),
        ):
            both = analysis.side_by_side([function(crystal, **options), function(hot, **options)])
            analysis.plot(both, tmp_path / "both.png")
            assert (tmp_path / "both.png").stat().st_size > 5_000
    flows = [analysis.flow_of_energy(crystal) for _ in range(2)]
    flows[1].add("relaxation_time", 0.5, "ps", error=0.1)
    both = analysis.side_by_side(flows)
    assert np.isnan(both["relaxation_time"][0]) and both["relaxation_time"][1] == 0.5
    assert any("relaxation_time" in note for note in both.notes)
