"""Primitive cells, paths and allowed wave vectors."""

import numpy as np
import pytest
from support.waves import magnet, run

from spinmd import Trajectory
from spinmd.analysis.brillouin import allowed_points, commensurate_path, primitive_cell, reduced_cell, sampled_path
from spinmd.crystal import PROTOTYPES, prototype_cell, repeat
from spinmd.errors import InputError

ELEMENTS = ["Fe", "Co", "O"]
SITES = {"sc": 1, "bcc": 1, "fcc": 1, "hcp": 2, "diamond": 2, "rocksalt": 2, "B2": 2, "perovskite": 5}


def crystal(prototype: str, repeats=(4, 4, 4)):
    """Sites, cell and elements of a supercell."""
    unit = prototype_cell(prototype, ELEMENTS[: len(PROTOTYPES[prototype])], 3.0)
    sites = repeat(unit.positions, unit.cell, repeats)
    return sites, unit.cell * np.array(repeats)[:, None], unit.symbols * int(np.prod(repeats))


def rotation(seed: int) -> np.ndarray:
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return matrix * np.linalg.det(matrix)


@pytest.mark.parametrize("prototype", SITES)
def test_primitive_cells(prototype):
    """Whatever the order of atoms, origin and orientation, the cell has the right number of sites and repeats them all."""
    sites, cell, symbols = crystal(prototype)
    turn, order = rotation(3), np.random.default_rng(1).permutation(len(sites))
    found = reduced_cell((sites @ turn)[order] + [0.3, 1.1, -0.2], cell @ turn, np.array(symbols)[order])
    assert len(found.basis) == SITES[prototype] and found.occupied == 1.0
    assert found.volume * len(sites) / SITES[prototype] == pytest.approx(abs(np.linalg.det(cell)))
    assert found.supercell @ found.vectors == pytest.approx(cell @ turn, abs=1e-9)
    assert sorted(found.symbols) == sorted(
        np.array(symbols)[order][[np.argmax(found.site == k) for k in range(len(found.basis))]]
    )
    place = ((sites @ turn)[order] + [0.3, 1.1, -0.2] - found.basis[found.site]) @ np.linalg.inv(found.vectors)
    assert place == pytest.approx(np.rint(place), abs=1e-9)


@pytest.mark.parametrize("prototype", ["bcc", "fcc", "hcp"])
def test_allowed_points_are_all_and_no_others(prototype):
    sites, cell, symbols = crystal(prototype, (3, 4, 2))
    found = reduced_cell(sites, cell, symbols)
    points = allowed_points(found)
    assert len(points) == len(sites) // len(found.basis)
    assert np.exp(1j * (points @ found.reciprocal) @ cell.T) == pytest.approx(1.0)
    assert len(np.unique(np.rint(points * 1e6), axis=0)) == len(points)


def test_path_of_bcc():
    """H = (1 0 0), N = (½ ½ 0), P = (½ ½ ½) in 2π/a, or equivalents; points fit exactly; the distance is the length walked."""
    sites, cell, symbols = crystal("bcc", (8, 8, 8))
    turn = rotation(5)
    path = commensurate_path(reduced_cell(sites @ turn, cell @ turn, symbols), cell @ turn, "g-H-N-Γ-P|N-P")
    assert [label for _, label in path.ticks] == ["Γ", "H", "N", "Γ", "P|N", "P"]
    unit = 2.0 * np.pi / 3.0
    lengths = np.diff([distance for distance, _ in path.ticks]) / unit
    assert lengths == pytest.approx([1.0, np.sqrt(0.5), np.sqrt(0.5), np.sqrt(0.75), 0.5])
    assert np.exp(1j * path.q @ (cell @ turn).T) == pytest.approx(1.0, abs=1e-9)
    assert np.bincount(path.segment).tolist() == [9, 4, 4, 4, 5]
    corner = path.q[path.segment == 0][-1] @ turn.T / unit
    assert sorted(np.abs(corner).round(9)) == [0.0, 0.0, 1.0]
    same = path.segment[1:] == path.segment[:-1]
    steps = np.linalg.norm(np.diff(path.q, axis=0), axis=1)
    assert np.diff(path.distance)[same] == pytest.approx(steps[same])


def test_coordinates_in_both_units():
    """(1 0 0) of the cubic cell of bcc is (½ ½ −½) or so of the primitive one: the same point H."""
    sites, cell, symbols = crystal("bcc")
    found = reduced_cell(sites, cell, symbols)
    cubic = commensurate_path(found, cell, "0,0,0 1,0,0")
    assert cubic.q[-1] == pytest.approx([2.0 * np.pi / 3.0, 0.0, 0.0])
    assert any("conventional" in note for note in cubic.notes)
    primitive = commensurate_path(found, cell, "0,0,0 1/2,1/2,-1/2", units="primitive")
    assert np.linalg.norm(primitive.q[-1]) == pytest.approx(2.0 * np.pi / 3.0)


def test_sampled_path_and_snapping():
    sites, cell, symbols = crystal("fcc", (5, 5, 5))
    found = reduced_cell(sites, cell, symbols)
    smooth = sampled_path(found, "G-X-W", points=100)
    assert 95 <= len(smooth) <= 110 and smooth.reduced[0] == pytest.approx(0.0)
    exact = commensurate_path(found, cell, "G-K")
    for path in (exact, commensurate_path(found, cell, "G-W")):
        assert np.cross(path.q, path.ends[0, 1]) == pytest.approx(0.0, abs=1e-9)
    near = commensurate_path(found, cell, "G-K", snap=True)
    assert len(near) >= len(exact)
    assert np.exp(1j * near.q @ cell.T) == pytest.approx(1.0, abs=1e-9)
    assert any("K does not fit" in note for note in exact.notes)


def test_alloys_and_vacancies():
    sites, cell, symbols = crystal("bcc", (6, 6, 6))
    rng = np.random.default_rng(2)
    mixed = np.where(rng.random(len(sites)) < 0.3, "Co", "Fe")
    with pytest.raises(InputError, match="--ignore-elements"):
        reduced_cell(sites, cell, mixed)
    assert len(reduced_cell(sites, cell, mixed, ignore_elements=True).basis) == 1
    kept = rng.random(len(sites)) > 0.05
    vacant = reduced_cell(sites[kept], cell, np.array(symbols)[kept])
    assert len(vacant.basis) == 1 and vacant.occupied == pytest.approx(kept.mean())


def test_no_crystal_and_open_directions():
    cloud = np.random.default_rng(1).random((300, 3)) * 20.0
    loose = reduced_cell(cloud, np.eye(3) * 20.0, ["Fe"] * 300)
    with pytest.raises(InputError, match="no small cell repeats"):
        commensurate_path(loose, np.eye(3) * 20.0)
    assert len(commensurate_path(loose, np.eye(3) * 20.0, "0,0,0 3,0,0")) == 4
    sites, cell, symbols = crystal("sc", (6, 6, 3))
    film = reduced_cell(sites, cell * [[1], [1], [4]], symbols, (True, True, False))
    assert len(film.basis) == 3
    assert film.boundary == pytest.approx(np.pi / 3.0)
    with pytest.raises(InputError, match="open along its lattice vector 2"):
        commensurate_path(film, cell)
    with pytest.raises(InputError, match="give a zero there"):
        commensurate_path(film, cell, "0,0,0 0,0,1/2")
    along = commensurate_path(film, cell * [[1], [1], [4]], "0,0,0 1/2,0,0")
    assert along.q[-1] == pytest.approx([np.pi / 3.0, 0.0, 0.0]) and len(along) == 4


@pytest.mark.parametrize(
    "path, words",
    [
        ("G-Q", "has no point 'Q'; it has"),
        ("G", "at least two points"),
        ("0,0 1,1,1", "three numbers with commas"),
        ("0,0,0 1,x,0", "three numbers with commas"),
        ("0,0,0 1/0,0,0", "three numbers with commas"),
        ("G-G", "are the same"),
        ("0.05,0,0 0.1,0,0", "no wave vector of the path fits"),
    ],
)
def test_wrong_paths(path, words):
    sites, cell, symbols = crystal("bcc")
    with pytest.raises(InputError, match=words) as caught:
        commensurate_path(reduced_cell(sites, cell, symbols), cell, path)
    assert caught.value.place == "--path"


def test_cell_of_a_run(tmp_path):
    """The ideal sites of a run whose atoms are displaced."""
    deck = magnet("bcc", (3, 4, 5), steps=1)
    deck["structure"]["displacement"] = 0.2
    with Trajectory(run(tmp_path, "run", deck)) as trajectory:
        found = primitive_cell(trajectory)
        path = commensurate_path(found, trajectory.site_cell, "G-H")
    assert len(found.basis) == 1 and found.space_group == "Im-3m"
    assert round(np.linalg.det(found.supercell)) == 120
    assert len(path) in (4, 5, 6)
