"""Structures against exact crystallography, ASE's own files and an independent neighbour list (vesin)."""

import math

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from pydantic import ValidationError
from vesin import NeighborList

import spinmd.structure
from spinmd.crystal import closest_pair
from spinmd.errors import InputError
from spinmd.structure import StructureParameters, build_structure

IRON = {"prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665}
ROOT2, ROOT3 = math.sqrt(2.0), math.sqrt(3.0)


def build(run_seed=1, **table):
    return build_structure(StructureParameters(**table), run_seed)


def message(**table) -> str:
    """The sentence, with its place, that refuses ``table``."""
    try:
        build(**table)
    except ValidationError as error:
        return "; ".join(".".join(map(str, e["loc"])) + ": " + e["msg"] for e in error.errors())
    except InputError as error:
        return str(error)
    pytest.fail("was not refused")


def neighbours(state, cutoff):
    pairs = NeighborList(cutoff=cutoff, full_list=True).compute(state.positions, state.cell, state.pbc.all(), "ijd")
    return pairs


# prototype, its elements, atoms per cell, element, neighbour's element, coordination, distance / a
SHELLS = [
    ("sc", ["Po"], 1, "Po", "Po", 6, 1.0),
    ("bcc", ["Fe"], 2, "Fe", "Fe", 8, ROOT3 / 2),
    ("fcc", ["Ni"], 4, "Ni", "Ni", 12, ROOT2 / 2),
    ("hcp", ["Co"], 2, "Co", "Co", 12, 1.0),
    ("diamond", ["Si"], 8, "Si", "Si", 4, ROOT3 / 4),
    ("rocksalt", ["Ni", "O"], 8, "Ni", "O", 6, 0.5),
    ("rocksalt", ["Ni", "O"], 8, "O", "Ni", 6, 0.5),
    ("rocksalt", ["Ni", "O"], 8, "Ni", "Ni", 12, ROOT2 / 2),
    ("B2", ["Fe", "Al"], 2, "Fe", "Al", 8, ROOT3 / 2),
    ("cscl", ["Fe", "Al"], 2, "Al", "Al", 6, 1.0),
    ("perovskite", ["La", "Mn", "O"], 5, "Mn", "O", 6, 0.5),
    ("perovskite", ["La", "Mn", "O"], 5, "O", "Mn", 2, 0.5),
    ("perovskite", ["La", "Mn", "O"], 5, "La", "O", 12, ROOT2 / 2),
    ("perovskite", ["La", "Mn", "O"], 5, "La", "Mn", 8, ROOT3 / 2),
]


@pytest.mark.parametrize("prototype, elements, basis, element, other, coordination, ratio", SHELLS)
def test_first_shell_of_prototypes(prototype, elements, basis, element, other, coordination, ratio):
    a = 3.9
    state = build(prototype=prototype, elements=elements, lattice_constant=a, supercell=(3, 4, 3))
    assert state.natoms == 36 * basis
    i, j, d = neighbours(state, 1.02 * ratio * a)
    species = np.array(state.elements)
    chosen = (species[i] == element) & (species[j] == other)
    counts = np.bincount(i[chosen], minlength=state.natoms)[species == element]
    assert (counts == coordination).all()
    np.testing.assert_allclose(d[chosen], ratio * a, rtol=1e-12)


def test_hcp_cells_describe_one_crystal():
    table = {"prototype": "hcp", "element": "Co", "lattice_constant": 2.507, "c_over_a": 1.623}
    hexagonal, orthogonal = build(**table, supercell=(4, 4, 3)), build(**table, supercell=(4, 2, 3), orthogonal=True)
    assert hexagonal.natoms == orthogonal.natoms == 96
    assert hexagonal.volume == pytest.approx(orthogonal.volume, rel=1e-13)
    distances = [np.sort(neighbours(s, 5.0)[2]) for s in (hexagonal, orthogonal)]
    np.testing.assert_allclose(*distances, rtol=1e-12)
    ideal = build(prototype="hcp", element="Co", lattice_constant=2.5)
    assert ideal.cell[2, 2] / 2.5 == pytest.approx(math.sqrt(8.0 / 3.0), rel=1e-15)


def test_supercell_is_ordered_as_ase_repeats():
    expected = bulk("Fe", "bcc", a=2.8665, cubic=True).repeat((2, 3, 4))
    state = build(**IRON, supercell=(2, 3, 4))
    np.testing.assert_allclose(state.positions, expected.positions, atol=1e-12)
    np.testing.assert_allclose(state.cell, expected.cell, atol=1e-12)
    np.testing.assert_array_equal(state.reference, state.positions)
    np.testing.assert_allclose(state.masses, 55.845, rtol=1e-12)
    assert state.symbols == ("Fe",) and state.pbc.all() and not state.velocities.any()
    for name in state.PER_ATOM:
        assert getattr(state, name).flags.c_contiguous and len(getattr(state, name)) == 48
    assert not np.shares_memory(state.positions, state.reference)


def test_units_of_the_lattice_constant():
    nanometres = build(**IRON | {"lattice_constant": "0.28665 nm"})
    np.testing.assert_allclose(nanometres.cell, 2.8665 * np.eye(3), rtol=1e-14)


def test_strain_deforms_cell_and_positions():
    strain = [[0.01, 0.02, 0.0], [0.0, -0.03, 0.0], [0.005, 0.0, 0.0]]
    plain, strained = build(**IRON, supercell=(2, 2, 2)), build(**IRON, supercell=(2, 2, 2), strain=strain)
    deformation = np.eye(3) + strain
    np.testing.assert_allclose(strained.positions, np.einsum("ab,ib->ia", deformation, plain.positions), atol=1e-13)
    np.testing.assert_allclose(strained.cell, np.einsum("ab,ib->ia", deformation, plain.cell), atol=1e-13)
    np.testing.assert_allclose(build(**IRON, strain=[0.01, 0, -0.02]).cell, 2.8665 * np.diag([1.01, 1.0, 0.98]))


def test_velocities_have_no_momentum_and_the_exact_temperature():
    state = build(**IRON, supercell=(6, 6, 6), temperature="300 K", alloy={"Co": 0.4}, masses={"Co": 400})
    momenta = state.masses[:, None] * state.velocities
    assert np.abs(momenta.sum(axis=0)).max() < 1e-13 * np.abs(momenta).sum()
    boltzmann, electronvolt, amu = 1.380649e-23, 1.602176634e-19, 1.66053906892e-27
    twice_kinetic = (state.masses[:, None] * state.velocities**2).sum() * amu * 1e4  # J
    assert twice_kinetic / ((3 * 432 - 3) * boltzmann) == pytest.approx(300.0, rel=1e-9)
    assert electronvolt * state.kinetic_energy() == pytest.approx(0.5 * twice_kinetic, rel=1e-9)
    # equipartition: <m v²> is the same for both elements, within four standard errors of the mean of 3n squares
    for element in ("Fe", "Co"):
        chosen = np.array(state.elements) == element
        ratio = (state.masses[chosen, None] * state.velocities[chosen] ** 2).mean() / (
            state.masses[:, None] * state.velocities**2
        ).mean()
        assert abs(ratio - 1.0) < 4.0 * math.sqrt(2.0 / (3 * chosen.sum()))
    assert not build(**IRON, temperature=0).velocities.any()


def test_alloy_and_vacancies_have_exact_counts():
    state = build(**IRON, supercell=(5, 5, 5), alloy={"Fe": {"Co": 0.3, "Ni": 0.1}})
    counts = {symbol: state.elements.count(symbol) for symbol in state.symbols}
    assert counts == {"Co": 75, "Fe": 150, "Ni": 25}
    np.testing.assert_allclose(state.masses[np.array(state.elements) == "Co"], 58.933194)
    vacant = build(**IRON, supercell=(5, 5, 5), vacancies=0.1)
    assert vacant.natoms == 225
    assert build(**IRON, supercell=(5, 5, 5), vacancies=3).natoms == 247
    full = {tuple(np.round(r, 6)) for r in build(**IRON, supercell=(5, 5, 5)).positions}
    assert {tuple(np.round(r, 6)) for r in vacant.positions} < full
    replaced = build(**IRON, supercell=(5, 5, 5), alloy={"Co": 1.0})
    assert replaced.symbols == ("Co",)
    halves = build(**IRON, alloy={"Fe": {"Co": 0.5, "Ni": 0.5}}, supercell=(3, 1, 1), vacancies=0)
    assert sorted(halves.elements) == ["Co"] * 3 + ["Ni"] * 3
    odd = build(prototype="sc", element="Fe", lattice_constant=3, supercell=(3, 1, 1), alloy={"Co": 0.5, "Ni": 0.5})
    assert sorted(odd.elements) == ["Co", "Co", "Ni"]  # 1.5 atoms of each, rounded to 2, and no more than there are
    oxide = build(prototype="rocksalt", elements=["Ni", "O"], lattice_constant=4.17, alloy={"Ni": {"Co": 0.25}})
    assert sorted(oxide.elements) == ["Co"] + ["Ni"] * 3 + ["O"] * 4
    assert oxide.elements[4:] == ["O"] * 4


def test_displacement_has_the_stated_rms_length():
    state = build(**IRON, supercell=(12, 12, 12), displacement=0.1)
    u = state.positions - state.reference
    n = u.size
    assert (u**2).sum(axis=1).mean() == pytest.approx(0.01, rel=4.0 * math.sqrt(2.0 / n))
    assert np.abs(u.mean(axis=0)).max() < 4.0 * 0.1 / math.sqrt(n)
    np.testing.assert_array_equal(state.reference, build(**IRON, supercell=(12, 12, 12)).positions)


def test_random_streams_are_independent_of_one_another():
    table = IRON | {
        "supercell": (3, 3, 3),
        "temperature": 300.0,
        "displacement": 0.05,
        "spins": {"moments": {"Fe": 2.2, "Co": 2.2}, "texture": "random"},
        "alloy": {"Co": 0.2},
    }
    first, same, other = build(1, **table), build(1, **table), build(2, **table)
    for name in ("positions", "velocities", "spins", "species"):
        np.testing.assert_array_equal(getattr(first, name), getattr(same, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))
    u, v = (first.positions - first.reference).ravel(), first.velocities.ravel()
    assert abs(np.corrcoef(u, v)[0, 1]) < 4.0 / math.sqrt(u.size)
    calm = build(1, **table | {"displacement": 0.0})
    np.testing.assert_array_equal(calm.velocities, first.velocities)
    np.testing.assert_array_equal(calm.spins, first.spins)
    np.testing.assert_array_equal(calm.species, first.species)
    own = build(99, **table, seed=1)
    np.testing.assert_array_equal(own.positions, first.positions)


def test_open_directions_and_vacuum():
    slab = build(**IRON, supercell=(2, 2, 3), pbc=[True, True, False], vacuum="10 Å")
    assert slab.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(np.diag(slab.cell), [2 * 2.8665, 2 * 2.8665, 2.5 * 2.8665 + 20.0])
    assert slab.positions[:, 2].min() == pytest.approx(10.0)
    unchanged = build(**IRON, supercell=(2, 2, 3), pbc=[True, True, False])
    np.testing.assert_allclose(np.diag(unchanged.cell), 2.8665 * np.array([2, 2, 3]))
    # a cluster in an oblique cell: the heights of the cell are the extents plus vacuum
    hcp = {"prototype": "hcp", "element": "Co", "lattice_constant": 2.5, "supercell": (3, 3, 3)}
    cluster, crystal = build(**hcp, pbc=[False] * 3, vacuum=4.0), build(**hcp)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cluster.cell), axis=0)
    normals = np.linalg.inv(crystal.cell) / np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
    np.testing.assert_allclose(heights, np.ptp(crystal.positions @ normals, axis=0) + 8.0, rtol=1e-12)
    np.testing.assert_allclose(
        cluster.positions - crystal.positions, (cluster.positions - crystal.positions)[:1].repeat(54, 0)
    )


def test_masses_can_be_replaced():
    state = build(prototype="B2", elements=["Fe", "Co"], lattice_constant=2.85, masses={"Fe": "57 amu"})
    np.testing.assert_allclose(state.masses, [57.0, 58.933194])


@pytest.fixture
def molecule():
    """Two unlike atoms with velocities and non-collinear moments in an oblique cell."""
    cell = [[3.0, 0.0, 0.0], [0.4, 3.2, 0.0], [0.1, -0.3, 3.5]]
    atoms = Atoms("FeCo", scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]], cell=cell, pbc=[True, True, False])
    atoms.set_initial_magnetic_moments([[0.5, -1.0, 2.0], [1.7, 0.0, 0.0]])
    atoms.set_velocities(np.array([[1.5, 0.0, -2.0], [0.0, 3.0, 0.25]]) / (1000.0 * units.fs))
    return atoms


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.json"])
def test_file_with_velocities_and_vector_moments(tmp_path, molecule, name):
    ase.io.write(tmp_path / name, molecule)
    state = build(file=tmp_path / name, supercell=(2, 1, 1))
    expected = molecule.repeat((2, 1, 1))
    np.testing.assert_allclose(state.positions, expected.positions, atol=1e-7)
    np.testing.assert_allclose(state.cell, expected.cell, atol=1e-7)
    np.testing.assert_allclose(state.spins, np.tile([[0.5, -1.0, 2.0], [1.7, 0.0, 0.0]], (2, 1)), atol=1e-7)
    np.testing.assert_allclose(state.moments, np.tile([math.sqrt(5.25), 1.7], 2), atol=1e-7)
    np.testing.assert_allclose(state.velocities, np.tile([[1.5, 0.0, -2.0], [0.0, 3.0, 0.25]], (2, 1)), atol=1e-6)
    assert state.elements == ["Fe", "Co"] * 2
    assert state.pbc.tolist() == [True, True, False]
    assert build(file=tmp_path / name, pbc=[True] * 3).pbc.all()


def test_velocities_of_a_file_carry_its_kinetic_energy(tmp_path, molecule):
    ase.io.write(tmp_path / "a.traj", molecule)
    assert build(file=tmp_path / "a.traj").kinetic_energy() == pytest.approx(molecule.get_kinetic_energy(), rel=1e-7)


def test_magmoms_of_a_calculator_come_first_and_frames_are_chosen(tmp_path, molecule):
    magmoms = np.array([[0.0, 0.0, 2.0], [0.0, -1.0, 0.0]])
    molecule.calc = SinglePointCalculator(molecule, magmoms=magmoms)
    other = molecule.copy()
    other.positions += 0.1
    ase.io.write(tmp_path / "a.xyz", [molecule, other], format="extxyz")
    first, last = build(file=tmp_path / "a.xyz", index=0), build(file=tmp_path / "a.xyz")
    np.testing.assert_array_equal(first.spins, magmoms)
    np.testing.assert_allclose(last.positions - first.positions, 0.1, atol=1e-7)
    np.testing.assert_array_equal(last.spins, [[0.5, -1.0, 2.0], [1.7, 0.0, 0.0]])


def test_vasp_file_named_by_format(tmp_path):
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    ase.io.write(tmp_path / "structure", atoms, format="vasp", direct=True)
    state = build(file=tmp_path / "structure", format="vasp", supercell=(1, 2, 1))
    np.testing.assert_allclose(
        state.positions, ase.io.read(tmp_path / "structure", format="vasp").repeat((1, 2, 1)).positions
    )
    assert state.elements.count("O") == 8 and not state.spins.any()


def test_file_without_a_cell_gets_one_in_open_directions(tmp_path):
    ase.io.write(tmp_path / "a.xyz", Atoms("Fe3", positions=[[0, 7, 0], [2, 7, 0], [0, 10, 0]]), format="xyz")
    state = build(file=tmp_path / "a.xyz")
    assert not state.pbc.any()
    np.testing.assert_allclose(state.cell, np.diag([12.0, 13.0, 10.0]))
    np.testing.assert_allclose(state.positions, [[5, 5, 5], [7, 5, 5], [5, 8, 5]])
    assert "structure.pbc: " in message(file=tmp_path / "a.xyz", pbc=[True] * 3)
    assert "structure.supercell: " in message(file=tmp_path / "a.xyz", supercell=[2, 1, 1])


def test_errors_in_files(tmp_path, molecule):
    lines = '3\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3\nFe 0 0 0\nFe 3 0 0\nFe 6 {} 0\n'
    (tmp_path / "nan.xyz").write_text(lines.format("nan"))
    assert message(file=tmp_path / "nan.xyz") == (
        "structure.file: nan.xyz: the position of atom 2 (Fe) is not a finite number"
    )
    (tmp_path / "cut.xyz").write_text(lines.format("0").rsplit("\n", 2)[0])
    assert message(file=tmp_path / "cut.xyz").startswith("structure.file: ASE cannot read cut.xyz")
    (tmp_path / "a.unknown").write_text("nothing of use\n")
    assert message(file=tmp_path / "a.unknown").startswith("structure.file: ASE cannot read a.unknown")
    assert "index" in message(file=tmp_path / "nan.xyz", index=3)
    molecule.set_initial_magnetic_moments([[0.0, 0.0, np.nan], [0.0, 0.0, 0.0]])
    ase.io.write(tmp_path / "spin.xyz", molecule)
    assert "magnetic moment of atom 0 (Fe)" in message(file=tmp_path / "spin.xyz")
    molecule.numbers[1] = 0
    ase.io.write(tmp_path / "ghost.traj", molecule)
    assert "atom 1 has no element" in message(file=tmp_path / "ghost.traj")
    assert "there is no file" in message(file=tmp_path / "absent.xyz")
    (tmp_path / "near.xyz").write_text(lines.format("0").replace("Fe 6", "Co 3.2"))
    assert message(file=tmp_path / "near.xyz").startswith(
        "structure.file: atom 1 (Fe) and atom 2 (Co) are 0.2 Å apart, closer than minimum_distance = 0.5 Å"
    )
    assert build(file=tmp_path / "near.xyz", minimum_distance=0.1).natoms == 3


@pytest.mark.parametrize(
    "table, words",
    [
        ({}, "give either prototype"),
        ({"prototype": "bcc", "element": "Fe"}, "lattice_constant is missing"),
        (IRON | {"prototype": "bccc"}, "'bccc' is not a prototype; use bcc"),
        (IRON | {"element": "fe"}, "'fe' is not the symbol of an element; use Fe"),
        (IRON | {"element": "Fee"}, "use Fe or F"),
        (IRON | {"lattice_constant": -2.8}, "greater than 0"),
        (IRON | {"lattice_constant": "2.8 eV"}, "not a unit of length"),
        (IRON | {"lattice_constant": 0.5}, "structure: atom 0 (Fe) and atom 1 (Fe) are 0.433 Å apart"),
        ({"prototype": "sc", "element": "Fe", "lattice_constant": 0.4}, "its own periodic image are 0.4 Å apart"),
        ({"prototype": "B2", "element": "Fe", "lattice_constant": 2.8}, "needs 2 elements"),
        (IRON | {"orthogonal": True}, "belongs to hcp"),
        (IRON | {"format": "vasp"}, "format has no meaning"),
        (IRON | {"supercell": [2, 0, 2]}, "supercell.1"),
        (IRON | {"masses": {"Fe": -1.0}}, "masses.Fe"),
        (IRON | {"masses": {"Ni": 58.0}}, "structure.masses.Ni: there is no Ni"),
        (IRON | {"alloy": {"Fe": {"Co": 0.7, "Ni": 0.4}}}, "more than 1"),
        (IRON | {"alloy": {"Ni": {"Co": 0.5}}}, "structure.alloy.Ni: there is no Ni"),
        (IRON | {"alloy": {"Co": 0.1}}, "less than one atom"),
        (IRON | {"alloy": {"Kobalt": 0.1}}, "not the symbol of an element"),
        (IRON | {"vacancies": 2}, "leave none"),
        (IRON | {"vacancies": 1.5}, "vacancies"),
        (IRON | {"strain": [0.1, 0.2]}, "three numbers or three rows"),
        (IRON | {"strain": [-1.0, 0.0, 0.0]}, "structure.strain: the three lattice vectors do not span"),
        (IRON | {"vacuum": 5.0}, "open direction"),
        (IRON | {"temperature": "-1 K"}, "temperature"),
        (
            {"prototype": "sc", "element": "Fe", "lattice_constant": 3, "temperature": 9},
            "structure.temperature: one atom",
        ),
        (IRON | {"supercell": [4, 4, 4], "displacement": 2.0}, "structure.displacement: atom "),
        (IRON | {"lattize": 1}, "lattize"),
    ],
)
def test_errors_name_place_and_remedy(table, words):
    assert words in message(**table)


def test_supercell_beyond_memory_is_refused_at_once(monkeypatch):
    text = message(**IRON, supercell=[100000, 100000, 100000])
    assert text.startswith("structure.supercell: 2,000,000,000,000,000 atoms need about 3,000,000,000.0 GB")
    monkeypatch.setattr(spinmd.structure, "available_memory", lambda: 10_000_000)
    assert "and 0.0 GB are available" in message(**IRON, supercell=[20, 20, 20])
    assert build(**IRON, supercell=[10, 10, 10]).natoms == 2000


def test_closest_pair_in_random_cells():
    """Any cell, any mixture of boundaries, and positions far outside the cell, against brute force over images."""
    rng = np.random.default_rng(5)
    shifts = np.array(np.meshgrid(*[np.arange(-3, 4)] * 3)).reshape(3, -1).T
    found = 0
    for _ in range(150):
        cell = rng.normal(size=(3, 3)) + 2.0 * np.eye(3)
        heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        pbc = rng.random(3) < 0.6
        fractional = rng.random((int(rng.integers(1, 5)), 3))
        limit = 0.9 * heights.min()
        expected = np.inf
        for shift in shifts[(shifts[:, ~pbc] == 0).all(axis=1)]:
            d = np.linalg.norm((fractional[:, None] - fractional - shift) @ cell, axis=2)
            if not shift.any():
                np.fill_diagonal(d, np.inf)
            expected = min(expected, d.min())
        moved = fractional + np.where(pbc, rng.integers(-4, 5, fractional.shape), 0)
        pair = closest_pair(moved @ cell, cell, pbc, limit)
        if expected < limit * (1 - 1e-9):
            assert pair is not None and pair[2] == pytest.approx(expected, rel=1e-9)
            found += 1
        else:
            assert pair is None
    assert 20 < found < 130


def test_closest_pair_among_many_atoms_and_across_the_boundary():
    state = build(**IRON, supercell=(12, 12, 12), displacement=0.05)
    positions = state.positions.copy()
    assert closest_pair(positions, state.cell, state.pbc, 0.5) is None
    positions[7] = [0.1, 5.5 * 2.8665, 5.5 * 2.8665]  # an octahedral hole
    positions[2001] = [12 * 2.8665 - 0.2, 5.5 * 2.8665, 5.5 * 2.8665]
    assert closest_pair(positions, state.cell, state.pbc, 0.5) == (7, 2001, pytest.approx(0.3, rel=1e-9))
    assert closest_pair(positions, state.cell, np.array([False, True, True]), 0.5) is None
    piled = np.zeros((3000, 3))
    assert closest_pair(piled, state.cell, state.pbc, 0.5)[2] == 0.0


def test_every_field_is_described():
    for model in (StructureParameters, spinmd.structure.SpinParameters):
        for name, field in model.model_fields.items():
            assert field.description and field.description.endswith("."), name
