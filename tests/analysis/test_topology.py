"""Topological charge of layers, from runs of the engine."""

import numpy as np
import pytest

import spinmd
from spinmd import analysis
from spinmd.analysis import reading
from spinmd.analysis.topology import find_layers, solid_angles
from spinmd.cli import main
from spinmd.errors import InputError


def run(folder, name, changes=(), **structure) -> spinmd.Trajectory:
    """A short damped run of a layer with a skyrmion; J, D and B as in inputs/skyrmion.toml."""
    spins = {"moments": {"Mn": 2.0}, "texture": "skyrmion", "radius": 15.0, "helicity": 90.0}
    spins |= structure.pop("spins", {})
    spins = {k: v for k, v in spins.items() if spins["texture"] == "skyrmion" or k not in ("radius", "helicity")}
    deck = {
        "structure": {"prototype": "sc", "element": "Mn", "lattice_constant": 3.0, "supercell": [16, 16, 1],
                      "pbc": [True, True, False], "spins": spins, **structure},
        "potential": [
            {"kind": "exchange", "parameters": {"form": "shells", "J": [0.01]}},
            {"kind": "dmi", "parameters": {"form": "shells", "D": [0.006]}},
            {"kind": "zeeman", "parameters": {"field": [0, 0, 25]}},
        ],
        "integrator": {"ensemble": "nve", "timestep": "2 fs", "lattice": "frozen", "spin_damping": 0.5},
        "run": {"steps": 100, "seed": 1},
        "output": {"file": str(folder / f"{name}.h5"), "thermo": 10, "trajectory": 20, "checkpoint": 0},
    }  # fmt: skip
    with spinmd.build(spinmd.load_deck(deck), threads=1) as simulation:
        simulation.run()
    return spinmd.Trajectory(folder / f"{name}.h5")


@pytest.mark.parametrize(
    "vorticity, helicity, direction, charge",
    [
        (1, 90, [0, 0, 1], -1),
        (1, -90, [0, 0, 1], -1),
        (1, 0, [0, 0, -1], 1),
        (-1, 0, [0, 0, 1], 1),
        (2, 30, [0, 0, 1], -2),
    ],
)
def test_charge_of_a_skyrmion_is_a_whole_number(tmp_path, vorticity, helicity, direction, charge):
    """−1 per turn in a background that points up; whatever the helicity. An antiskyrmion and the other background have +1."""
    with run(
        tmp_path, "sk", spins={"vorticity": vorticity, "helicity": helicity, "direction": direction, "radius": 20}
    ) as one:
        first = analysis.topological_charge(one[:1])
        assert abs(first["charge"] - charge) < 1e-12
        if (vorticity, helicity) == (1, 90):
            through = analysis.topological_charge(one)
            assert np.abs(through["charge"] - charge).max() < 1e-12
            assert np.array_equal(through["time"], one.times) and through.quantity("charge").axes == ("time", "height")


def test_the_normal_decides_the_sign_and_a_ferromagnet_has_none(tmp_path):
    with run(tmp_path, "sk") as one:
        assert abs(analysis.topological_charge(one, normal=(0, 0, -2.0))["last_charge"] - 1.0) < 1e-12
    with run(tmp_path, "fm", spins={"texture": "cone", "angle": 30}) as one:
        assert np.abs(analysis.topological_charge(one)["charge"]).max() < 1e-12


@pytest.mark.parametrize("pbc", [[False, False, False], [True, False, False], [True, True, True]])
def test_any_boundary_with_a_uniform_rim(tmp_path, pbc):
    with run(tmp_path, "sk", pbc=pbc, spins={"radius": 15.0}) as one:
        assert abs(analysis.topological_charge(one[:1])["last_charge"] + 1.0) < 1e-12


def test_layers_of_a_crystal_and_of_an_oblique_cell(tmp_path):
    """Three layers, each with its own charge; hexagonal layers of an fcc crystal cut along (111) by an oblique cell."""
    with run(tmp_path, "deep", supercell=[12, 12, 3], pbc=[True, True, True]) as one:
        result = analysis.topological_charge(one[:1])
        assert result["height"] == pytest.approx([0.0, 3.0, 6.0])
        assert np.abs(result["charge"] + 1.0).max() < 1e-12 and abs(result["total"] + 3.0) < 1e-12
    side = run(tmp_path, "hcp", prototype="hcp", supercell=[14, 14, 1], spins={"radius": 14.0})
    with side:
        result = analysis.topological_charge(side[:1])
        assert len(result["height"]) == 2 and np.abs(result["charge"] + 1.0).max() < 1e-12


def test_triangles_tile_a_periodic_layer_once():
    """Twice as many triangles as sites (Euler on a torus), and their areas add up to that of the cell."""
    for cell in (np.diag([15.0, 9.0, 4.0]), np.array([[15.0, 0, 0], [7.0, 8.0, 0], [0, 0, 4.0]])):
        n = 5
        grid = np.array([(i / n, j / n, 0.0) for i in range(n) for j in range(n)])
        (layer,) = find_layers(grid @ cell, cell, np.array([True, True, True]))
        assert len(layer.triangles) == 2 * n * n
        assert np.bincount(layer.triangles.ravel(), minlength=n * n).min() >= 4


def test_solid_angle_of_an_octant():
    angles, unclear = solid_angles(np.eye(3)[None], np.array([[0, 1, 2], [0, 2, 1]]))
    assert angles == pytest.approx(np.array([[np.pi / 2, -np.pi / 2]])) and unclear == 0
    flat = np.array([[1.0, 0, 0], [-0.5, np.sqrt(0.75), 0], [-0.5, -np.sqrt(0.75), 0]])
    assert solid_angles(flat[None], np.array([[0, 1, 2]]))[1] == 1


def test_pieces_and_order_of_frames_do_not_matter(tmp_path, monkeypatch):
    with run(tmp_path, "sk", spins={"texture": "random"}) as one:
        whole = analysis.topological_charge(one)
        assert len(np.unique(np.rint(whole["charge"]))) > 1  # random spins have another charge in each frame
        backwards = analysis.topological_charge(one[::-1])
        assert np.array_equal(backwards["charge"], whole["charge"])  # frames are taken in the order of time
        monkeypatch.setattr(reading, "MEGABYTES", 0.01)
        assert np.array_equal(analysis.topological_charge(one)["charge"], whole["charge"])


def test_command_line(tmp_path, capsys):
    run(tmp_path, "sk").close()
    file, figure = tmp_path / "charge.csv", tmp_path / "charge.png"
    assert main(["analyze", "topology", str(tmp_path / "sk.h5"), "-o", str(file), "--plot", str(figure)]) == 0
    assert "last_charge" in capsys.readouterr().out
    lines = file.read_text().splitlines()
    assert "time (ps),charge_0,total" in lines or "time (ps),charge,total" in " ".join(lines)
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert main(["analyze", "topology", str(tmp_path / "sk.h5"), "--normal", "0,1,1"]) == 2
    assert "two of the cell's vectors" in capsys.readouterr().err


def test_what_has_no_layers_is_refused(tmp_path):
    one = run(tmp_path, "row", supercell=[16, 1, 1], pbc=[False, False, False])
    with one, pytest.raises(InputError, match="triangles"):
        analysis.topological_charge(one)


def test_the_deck_relaxes_to_the_energy_that_spirit_finds(root, tmp_path):
    """−5849.69140625 meV and m_z = 0.79977 × 2 µB for the same couplings on 16 × 16 periodic sites (Spirit's own test)."""
    changes = {"output.file": str(tmp_path / "sk.h5"), "integrator.timestep": "3 fs", "run.steps": 2000}
    with spinmd.build(spinmd.load_deck(root / "inputs" / "skyrmion.toml", changes), threads=1) as simulation:
        simulation.run()
        assert simulation.results()["energy"] == pytest.approx(-5.84969140625, abs=3e-7)  # printed in single precision
        assert simulation.thermo["magnetisation_z"][-1] == pytest.approx(
            2 * 0.79977, abs=5e-5
        )  # its own minimisation stops early
    with spinmd.Trajectory(tmp_path / "sk.h5") as one:
        assert np.abs(analysis.topological_charge(one)["charge"] + 1.0).max() < 1e-12
