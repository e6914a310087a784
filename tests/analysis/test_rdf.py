"""g(r) and coordination numbers of runs: crystals, an ideal gas, several elements, cutoffs beyond half the cell."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from ase.neighborlist import neighbor_list
from support.runs import crystal, run

from spinmd import Trajectory, analysis
from spinmd.errors import InputError


@pytest.fixture(scope="module")
def iron(tmp_path_factory):
    deck = crystal(40.0, (4, 4, 4), steps=400, output={"trajectory": 10})
    return Trajectory(run(deck, tmp_path_factory.mktemp("iron") / "iron.h5"))


def test_coordination_of_bcc(iron):
    """8 and 6 neighbours, exactly, and the peaks where they belong."""
    result = analysis.radial_distribution(iron)
    edge, neighbours = result["r_edge"], result["neighbours"]
    assert result["first_shell"] == pytest.approx(8.0, abs=1e-12)
    assert neighbours[np.argmin(np.abs(edge - 1.2 * 2.8665))] == pytest.approx(14.0, abs=1e-12)
    assert neighbours[np.argmin(np.abs(edge - 0.5 * 2.8665))] == 0.0
    assert result["first_peak"] == pytest.approx(2.8665 * np.sqrt(0.75), abs=0.05)
    # the running number is the integral of g
    density = 2.0 / 2.8665**3
    shells = 4.0 / 3.0 * np.pi * np.diff(np.concatenate([[0.0], edge]) ** 3)
    np.testing.assert_allclose(density * np.cumsum(result["g"] * shells), neighbours, rtol=1e-12)


def brute(trajectory, frame, r_max, bins, first=None, second=None):
    """Histogram of ordered pairs of a frame by ASE's neighbour list, which has all periodic images."""
    atoms = Atoms(trajectory.symbols, trajectory.positions[frame], cell=trajectory.cells[frame], pbc=trajectory.pbc)
    i, j, distance = neighbor_list("ijd", atoms, r_max)
    symbols = trajectory.symbols
    keep = np.ones(len(i), bool) if first is None else (symbols[i] == first) & (symbols[j] == second)
    return np.histogram(distance[keep], bins, (0.0, r_max))[0]


def test_triclinic_cell_and_cutoff_beyond_half(tmp_path):
    """A small hexagonal cell and a cutoff of more than its whole height, in every pair of elements, against ASE."""
    deck = crystal(300.0, (2, 2, 1), steps=40, output={"trajectory": 20})
    deck["structure"] |= {"prototype": "hcp", "lattice_constant": 2.5, "alloy": {"Fe": {"Co": 0.4}}}
    trajectory = Trajectory(run(deck, tmp_path / "hcp.h5"))
    assert set(trajectory.elements) == {"Fe", "Co"}
    r_max, bins = 6.33, 63
    window = analysis.Window(start=-1.0)
    result = analysis.radial_distribution(trajectory, window, r_max=r_max, bins=bins)
    assert result.settings["frames"] == len(trajectory) == 3
    count = {name: np.count_nonzero(trajectory.symbols == name) for name in ("Fe", "Co")}
    counted = sum(brute(trajectory, k, r_max, bins) for k in range(3))
    np.testing.assert_allclose(result["neighbours"], np.cumsum(counted) / (3 * trajectory.natoms), rtol=1e-12)
    for first, second in (("Fe", "Co"), ("Co", "Fe"), ("Co", "Co")):
        counted = sum(brute(trajectory, k, r_max, bins, first, second) for k in range(3))
        np.testing.assert_allclose(
            result[f"neighbours_{first}_{second}"], np.cumsum(counted) / (3 * count[first]), rtol=1e-12
        )
    analysis.plot(result, tmp_path / "rdf.png")


def test_ideal_gas(tmp_path):
    """Free atoms that fly through a box: g = 1 at every distance, within its errors."""
    rng = np.random.default_rng(5)
    atoms = Atoms("Fe400", rng.random((400, 3)) * 12.0, cell=12.0 * np.eye(3), pbc=True)
    write(tmp_path / "gas.extxyz", atoms)
    structure = {
        "file": str(tmp_path / "gas.extxyz"),
        "minimum_distance": 0,
        "temperature": 3000,
        "spins": {"moments": {"Fe": 1.0}},
    }
    deck = {
        "structure": structure,
        "potential": [{"kind": "zeeman", "parameters": {"field": [0, 0, 1.0]}}],
        "integrator": {"ensemble": "nve", "timestep": 0.02, "spins": "frozen"},
        "run": {"steps": 1600, "threads": 1},
        "output": {"thermo": 0, "trajectory": 40, "checkpoint": 0},
    }
    trajectory = Trajectory(run(deck, tmp_path / "gas.h5"))
    result = analysis.radial_distribution(trajectory, r_max=7.0, bins=14)
    g, error = result["g"][2:], result.error("g")[2:]  # of the first bins few atoms know anything
    expected = np.where(result["r"][2:] < 6.0, 399 / 400, 1.0)
    assert error.max() < 0.05
    assert (np.abs(g - expected) < 4.0 * error + 0.004).all()


def test_chunks_and_order_of_frames_do_not_matter(iron, monkeypatch):
    window = analysis.Window(start=-1.0, stop=0.78)  # 40 frames: ten blocks of four
    whole = analysis.radial_distribution(iron, window)
    turned = analysis.radial_distribution(iron[::-1], analysis.Window(start=-1.0, stop=0.78))
    chunks = Trajectory.chunks
    monkeypatch.setattr(Trajectory, "chunks", lambda self, *q, **more: chunks(self, *q, **{**more, "megabytes": 0.02}))
    pieces = analysis.radial_distribution(iron, window)
    np.testing.assert_array_equal(pieces["g"], whole["g"])
    np.testing.assert_array_equal(pieces.error("g"), whole.error("g"))
    np.testing.assert_allclose(turned["g"], whole["g"], rtol=1e-12)
    np.testing.assert_allclose(turned.error("g"), whole.error("g"), rtol=1e-9, atol=1e-12)


def test_wrong_requests(iron, tmp_path):
    with pytest.raises(InputError, match="expected a distance above zero"):
        analysis.radial_distribution(iron, r_max=-1.0)
    with pytest.raises(InputError, match="--bins: expected at most 100000, got 100000000"):
        analysis.radial_distribution(iron, bins=100_000_000)
    with pytest.raises(InputError, match="too many pairs within 900 Å"):
        analysis.radial_distribution(iron, r_max=900.0)
    deck = crystal(300.0, (2, 2, 2), steps=10, output={"quantities": ["velocities"]})
    with pytest.raises(InputError, match="holds velocities, and no positions"):
        analysis.radial_distribution(Trajectory(run(deck, tmp_path / "v.h5")))
