"""Spin textures against what they are by definition, and the thermal one against Langevin's exact moments."""

import math
from decimal import Decimal, localcontext

import ase.io
import numpy as np
import pytest
from ase import Atoms
from pydantic import ValidationError
from vesin import NeighborList

from spinmd.errors import InputError
from spinmd.structure import StructureParameters, build_structure
from spinmd.textures import langevin, langevin_inverse, sample_cosines

A = 2.8665
IRON = {"prototype": "bcc", "element": "Fe", "lattice_constant": A, "supercell": (4, 4, 4)}
FE = {"moments": {"Fe": 2.2}}


def build(structure, run_seed=1, **spins):
    return build_structure(StructureParameters(**structure, spins=spins), run_seed)


def message(structure, **spins) -> str:
    """The sentence, with its place, that refuses these spins."""
    try:
        build(structure, **spins)
    except ValidationError as error:
        return "; ".join(".".join(map(str, e["loc"])) + ": " + e["msg"] for e in error.errors())
    except InputError as error:
        return str(error)
    pytest.fail("was not refused")


def directions(state):
    return state.spins / state.moments[:, None]


def shell(state, cutoff):
    """i, j and vectors r_j − r_i of all pairs within ``cutoff``."""
    return NeighborList(cutoff=cutoff, full_list=True).compute(state.positions, state.cell, True, "ijD")


def test_ferromagnet_along_any_direction():
    state = build(IRON, **FE, direction=[1, -2, 2])
    np.testing.assert_allclose(state.spins, np.tile([2.2 / 3, -4.4 / 3, 4.4 / 3], (128, 1)), rtol=1e-14)
    np.testing.assert_array_equal(state.moments, 2.2)
    np.testing.assert_allclose(build(IRON, **FE, direction=[0, 0, 1e-200]).spins[:, 2], 2.2)


def test_elements_not_listed_are_non_magnetic():
    structure = {"prototype": "rocksalt", "elements": ["Ni", "O"], "lattice_constant": 4.17}
    state = build(structure, moments={"Ni": "1.7 µB"}, texture="random")
    nickel = np.array(state.elements) == "Ni"
    np.testing.assert_allclose(np.linalg.norm(state.spins, axis=1), np.where(nickel, 1.7, 0.0), rtol=1e-14)
    np.testing.assert_array_equal(state.moments, np.where(nickel, 1.7, 0.0))
    bare = build(structure)
    assert not bare.spins.any() and not bare.moments.any()
    alloy = build(IRON | {"alloy": {"Co": 0.25}}, moments={"Fe": 2.2, "Co": 1.7}, texture="cone", angle=10)
    assert np.bincount(alloy.species, alloy.moments) == pytest.approx([32 * 1.7, 96 * 2.2])


def test_reference_moments_differ_from_initial_lengths():
    state = build(IRON, moments={"Fe": 2.0}, reference_moments={"Fe": 2.2})
    np.testing.assert_allclose(np.linalg.norm(state.spins, axis=1), 2.0)
    np.testing.assert_array_equal(state.moments, 2.2)
    oxide = {"prototype": "rocksalt", "elements": ["Ni", "O"], "lattice_constant": 4.17}
    state = build(oxide, moments={"Ni": 1.7}, reference_moments={"Ni": 1.8, "O": 0.1})
    np.testing.assert_array_equal(state.moments, [1.8] * 4 + [0.0] * 4)  # oxygen has no spin and is non-magnetic


@pytest.mark.parametrize(
    "spins",
    [{"wavevector": [1, 0, 0]}, {"sublattices": [1, -1]}, {"layer_axis": [0, 1, 0]}, {"wavevector": [0, 0, -1]}],
)
def test_bcc_antiferromagnet_has_only_opposite_first_neighbours(spins):
    state = build(IRON, **FE, texture="antiferromagnetic", direction=[1, 1, 0], **spins)
    np.testing.assert_allclose(state.spins.sum(axis=0), 0.0, atol=1e-12)
    e = directions(state)
    i, j, _ = shell(state, 0.9 * A)
    np.testing.assert_allclose((e[i] * e[j]).sum(axis=1), -1.0, rtol=1e-12)
    assert e[0] @ [1, 1, 0] == pytest.approx(math.sqrt(2.0))


def test_long_and_oblique_waves():
    """Signs of cos 2πq·r that is not ±1, in a chain of period six and along the first vector of a hexagonal cell."""
    chain = {"prototype": "sc", "element": "Fe", "lattice_constant": 3.0, "supercell": (6, 1, 1)}
    state = build(chain, **FE, texture="antiferromagnetic", wavevector=[1 / 6, 0, 0])
    np.testing.assert_array_equal(state.spins[:, 2], [2.2, 2.2, -2.2, -2.2, -2.2, 2.2])
    hcp = {"prototype": "hcp", "element": "Co", "lattice_constant": 2.5, "supercell": (4, 3, 1)}
    state = build(hcp, moments={"Co": 1.7}, texture="antiferromagnetic", wavevector=[0.5, 0, 0])
    np.testing.assert_array_equal(state.spins[:, 2], 1.7 * np.repeat([1, -1, 1, -1], 6))


def test_type_two_antiferromagnet_on_rocksalt():
    """NiO: alternating (111) planes; of 12 first neighbours 6 are parallel, all 6 second neighbours are opposite."""
    structure = {"prototype": "rocksalt", "elements": ["Ni", "O"], "lattice_constant": 4.17, "supercell": (2, 2, 2)}
    by_wave = build(structure, moments={"Ni": 1.7}, texture="antiferromagnetic", wavevector=[0.5, 0.5, 0.5])
    by_layer = build(structure, moments={"Ni": 1.7}, texture="antiferromagnetic", layer_axis=[1, 1, 1])
    np.testing.assert_allclose(by_layer.spins, by_wave.spins, atol=1e-14)
    np.testing.assert_allclose(by_wave.spins.sum(axis=0), 0.0, atol=1e-12)
    i, j, r = shell(by_wave, 1.01 * 4.17)
    nickel = by_wave.moments > 0
    chosen = nickel[i] & nickel[j]
    i, j, d = i[chosen], j[chosen], np.linalg.norm(r[chosen], axis=1)
    cosine = (by_wave.spins[i] * by_wave.spins[j]).sum(axis=1) / 1.7**2
    first = d < 0.75 * 4.17
    np.testing.assert_allclose(np.bincount(i[first], cosine[first], 64)[nickel], 0.0, atol=1e-12)
    assert np.bincount(i[first & (cosine > 0)], minlength=64)[nickel].tolist() == [6] * 32
    np.testing.assert_allclose(cosine[d > 0.95 * 4.17], -1.0, rtol=1e-12)


def test_layers_of_fcc_are_ferromagnetic_inside():
    structure = {
        "prototype": "fcc",
        "element": "Fe",
        "lattice_constant": 3.5,
        "supercell": (3, 3, 2),
        "displacement": 0.1,
    }
    state = build(structure, **FE, texture="antiferromagnetic", layer_axis=[0, 0, 1])
    np.testing.assert_array_equal(state.spins[:, 2], 2.2 * (-1.0) ** np.rint(state.reference[:, 2] / 1.75))
    assert "one layer" in message(
        structure, **FE, texture="antiferromagnetic", layer_axis=[0, 0, 1], layer_tolerance=2.0
    )


def test_antiferromagnet_survives_vacancies_vacuum_and_strain():
    plain = build(IRON, **FE, texture="antiferromagnetic", wavevector=[1, 0, 0])
    slab = IRON | {"pbc": [True, True, False], "vacuum": 3.3, "strain": [0.01, 0.02, -0.03]}
    np.testing.assert_array_equal(
        build(slab, **FE, texture="antiferromagnetic", wavevector=[1, 0, 0]).spins, plain.spins
    )
    vacant = IRON | {"vacancies": 9}
    for spins in ({"wavevector": [1, 0, 0]}, {"sublattices": [1, -1]}, {"layer_axis": [0, 0, 1]}):
        state = build(vacant, **FE, texture="antiferromagnetic", **spins)
        corner = np.abs(state.reference / A - np.rint(state.reference / A)).max(axis=1) < 1e-9
        np.testing.assert_array_equal(state.spins[:, 2], np.where(corner, 2.2, -2.2))


def test_random_spins_are_uniform_on_the_sphere():
    state = build(IRON | {"supercell": (20, 20, 20)}, **FE, texture="random", direction=[1, 2, 3])
    e, n = directions(state), state.natoms
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1.0, rtol=1e-14)
    assert np.abs(e.mean(axis=0)).max() < 4.0 / math.sqrt(3 * n)
    second = np.einsum("ia,ib->ab", e, e) / n
    # variances on the sphere: e_x² has 4/45, e_x e_y has 1/15
    assert np.abs(second - np.eye(3) / 3).max() < 4.0 * math.sqrt(4.0 / 45.0 / n)
    assert abs((e[:, 2] ** 4).mean() - 0.2) < 4.0 * math.sqrt((1 / 9 - 1 / 25) / n)


@pytest.mark.parametrize("angle, degrees", [(40, 40.0), ("0.5 rad", math.degrees(0.5)), (0, 0.0), (120, 120.0)])
def test_cone_angle_is_exact(angle, degrees):
    direction = np.array([1.0, 2.0, -2.0]) / 3.0
    state = build(IRON, **FE, texture="cone", angle=angle, direction=[1, 2, -2])
    np.testing.assert_allclose(directions(state) @ direction, math.cos(math.radians(degrees)), atol=1e-14)
    perpendicular = directions(state) - np.multiply.outer(directions(state) @ direction, direction)
    sine = math.sin(math.radians(degrees))
    assert np.linalg.norm(perpendicular.mean(axis=0)) <= 4.0 * sine / math.sqrt(128) + 1e-14
    uniform = build(IRON, **FE, texture="cone", angle=angle, direction=[1, 2, -2], cone_phase="uniform")
    np.testing.assert_allclose(uniform.spins, np.tile(uniform.spins[0], (128, 1)), atol=1e-15)
    np.testing.assert_allclose(directions(uniform) @ direction, math.cos(math.radians(degrees)), atol=1e-14)


@pytest.mark.parametrize("axis, angle", [([0, 0, 1], None), ([1, 1, 0], None), ([0, 1, 1], 70.0)])
def test_spiral_turns_by_the_phase_between_neighbours(axis, angle):
    q = np.array([0.25, 0.0, 0.5])
    cone = {} if angle is None else {"angle": angle}
    state = build(IRON, **FE, texture="spiral", wavevector=q.tolist(), axis=axis, **cone)
    e, n = directions(state), np.array(axis) / np.linalg.norm(axis)
    cosine = math.cos(math.radians(90.0 if angle is None else angle))
    np.testing.assert_allclose(e @ n, cosine, atol=1e-14)
    i, j, r = shell(state, 1.01 * A)
    phase = 2.0 * np.pi * (r @ q) / A
    p = e - cosine * n
    sine2 = 1.0 - cosine**2
    np.testing.assert_allclose((p[i] * p[j]).sum(axis=1), sine2 * np.cos(phase), atol=1e-12)
    np.testing.assert_allclose(np.cross(p[i], p[j]) @ n, sine2 * np.sin(phase), atol=1e-12)


def test_spiral_by_wavelength_equals_spiral_by_wavevector():
    by_wave = build(IRON, **FE, texture="spiral", wavevector=[0.0, 0.0, 0.25], direction=[1, 0, 0])
    by_length = build(IRON, **FE, texture="spiral", wavelength=4 * A, propagation=[0, 0, 2], direction=[1, 0, 0])
    np.testing.assert_allclose(by_wave.spins, by_length.spins, atol=1e-13)
    phase = 0.5 * np.pi * by_wave.positions[:, 2] / A  # a helix about its wave vector, from x towards y
    exact = 2.2 * np.stack([np.cos(phase), np.sin(phase), np.zeros(128)], axis=1)
    np.testing.assert_allclose(by_wave.spins, exact, atol=1e-13)


def test_spiral_in_an_oblique_cell():
    structure = {"prototype": "hcp", "element": "Co", "lattice_constant": 2.5, "supercell": (6, 6, 1)}
    state = build(structure, moments={"Co": 1.7}, texture="spiral", wavevector=[1 / 3, 1 / 3, 0], axis=[0, 0, 1])
    e = directions(state)
    i, j, r = shell(state, 2.51)
    layer = np.abs(r[:, 2]) < 0.1  # the 120° state of the triangular lattice
    assert layer.sum() == 6 * state.natoms
    np.testing.assert_allclose((e[i] * e[j]).sum(axis=1)[layer], -0.5, atol=1e-12)


def test_a_wave_that_does_not_fit_is_announced():
    with pytest.warns(UserWarning, match=r"0\.4 turns along periodic direction 1"):
        build(IRON, **FE, texture="spiral", wavevector=[0, 0.1, 0])
    with pytest.warns(UserWarning, match="fault at the boundary"):
        build(IRON | {"supercell": (3, 3, 3)}, **FE, texture="antiferromagnetic", wavevector=[1.0, 0, 0.51])


@pytest.mark.parametrize("mean", [0.0, 0.05, 0.7, 0.99])
def test_thermal_spins_have_langevin_moments(mean):
    direction = np.array([2.0, -1.0, 2.0]) / 3.0
    structure = IRON | {"supercell": (25, 25, 25)}
    state = build(structure, **FE, texture="thermal", magnetisation=mean, direction=direction.tolist())
    e, n = directions(state), state.natoms
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1.0, rtol=1e-13)
    cosine = e @ direction
    # exact: <c²> = 1 − 2 L/κ, <c³> and <c⁴> by parts: <c^k> = (eκ − (−1)^k e−κ)/(2 sinh κ) − (k/κ) <c^(k−1)>
    moments = [1.0, 0.0, 1 / 3, 0.0, 1 / 5]
    if mean > 0.0:
        kappa = langevin_inverse(mean)
        for k in range(1, 5):
            moments[k] = (1.0 if k % 2 == 0 else 1.0 / math.tanh(kappa)) - k / kappa * moments[k - 1]
    assert moments[1] == pytest.approx(mean, abs=1e-12)
    assert abs(cosine.mean() - mean) < 4.0 * math.sqrt((moments[2] - mean**2) / n)
    assert abs((cosine**2).mean() - moments[2]) < 4.0 * math.sqrt((moments[4] - moments[2] ** 2) / n)
    across = e - cosine[:, None] * direction
    assert np.linalg.norm(across.mean(axis=0)) < 4.0 * math.sqrt((1.0 - moments[2]) / n)


def test_langevin_function_and_its_inverse():
    with localcontext(prec=60):
        for kappa in (1e-6, 9e-3, 1.1e-2, 1.0, 30.0, 1e4):
            x, decay = Decimal(kappa), (-2 * Decimal(kappa)).exp()
            exact = float((1 + decay) / (1 - decay) - 1 / x)
            assert langevin(kappa) == pytest.approx(exact, rel=1e-12)
            assert langevin_inverse(exact) == pytest.approx(kappa, rel=1e-9)
    uniform = (np.arange(1000) + 0.5) / 1000
    for kappa in (1e-13, 1e-7, 1.0, 800.0):
        cosine = sample_cosines(kappa, uniform)
        assert (np.abs(cosine) <= 1.0).all() and (np.diff(cosine) < 0.0).all()
        assert cosine.mean() == pytest.approx(langevin(kappa), abs=1e-5)


@pytest.fixture
def files(tmp_path):
    """Files of three atoms, the last without a moment: collinear and vector magmoms."""
    atoms = Atoms("FeCoO", positions=[[0, 0, 0], [2, 0, 0], [0, 2, 0]], cell=[4, 4, 4], pbc=True)
    atoms.set_initial_magnetic_moments([2.5, -1.5, 0.0])
    ase.io.write(tmp_path / "collinear.xyz", atoms)
    atoms.set_initial_magnetic_moments(None)
    atoms.set_initial_magnetic_moments([[0.0, 1.5, 2.0], [-1.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    ase.io.write(tmp_path / "vectors.xyz", atoms)
    return tmp_path


def test_textures_of_files(files):
    collinear, vectors = {"file": files / "collinear.xyz"}, {"file": files / "vectors.xyz"}
    state = build(collinear, direction=[0, 3, 4])
    np.testing.assert_allclose(state.spins, [[0, 1.5, 2.0], [0, -0.9, -1.2], [0, 0, 0]], rtol=1e-14)
    np.testing.assert_array_equal(state.moments, [2.5, 1.5, 0.0])
    state = build(vectors)
    np.testing.assert_array_equal(state.spins, [[0.0, 1.5, 2.0], [-1.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(state.moments, [2.5, 1.5, 0.0])
    # lengths from the table, directions from the file
    state = build(vectors, moments={"Fe": 2.2, "Co": 1.7}, texture="file")
    np.testing.assert_allclose(state.spins, [[0.0, 1.32, 1.76], [-1.7, 0.0, 0.0], [0.0, 0.0, 0.0]], rtol=1e-14)
    # directions from the texture, lengths from the file
    state = build(vectors, texture="ferromagnetic")
    np.testing.assert_array_equal(state.spins, [[0.0, 0.0, 2.5], [0.0, 0.0, 1.5], [0.0, 0.0, 0.0]])
    assert "atom 2 (O) is magnetic" in message(vectors, moments={"O": 0.1})
    assert "structure.spins.moments: the file's magmoms do not know" in message(
        vectors | {"alloy": {"Fe": {"Ni": 1.0}}}
    )


@pytest.mark.parametrize(
    "spins, words",
    [
        ({"texture": "cone", "angle": 40}, "structure.spins.moments: give the moments in µB"),
        ({"moments": {"Fe": -2.2}}, "spins.moments.Fe"),
        ({"moments": {"Fe": "2.2 T"}}, "not a unit of moment"),
        ({"moments": {"Co": 1.7}}, "structure.spins.moments.Co: there is no Co"),
        (FE | {"texture": "kone"}, "'kone' is not a spin texture; use cone"),
        (FE | {"texture": "cone"}, "needs angle"),
        (FE | {"texture": "cone", "angle": 181}, "spins.angle"),
        (FE | {"angle": 40}, "angle is given but texture is not"),
        (FE | {"texture": "thermal"}, "needs magnetisation"),
        (FE | {"texture": "thermal", "magnetisation": 1.0}, "less than 1"),
        (FE | {"texture": "spiral"}, "a spiral needs either wavevector"),
        (FE | {"texture": "spiral", "wavelength": 10}, "a spiral needs either wavevector"),
        (FE | {"texture": "spiral", "wavevector": [0, 0, 0]}, "must not be [0, 0, 0]"),
        (FE | {"texture": "antiferromagnetic"}, "exactly one of wavevector = [h, k, l], sublattices = [1, -1, ...]"),
        (FE | {"texture": "antiferromagnetic", "wavevector": [1, 0, 0], "layer_axis": [1, 0, 0]}, "exactly one"),
        (FE | {"texture": "antiferromagnetic", "wavevector": [0.5, 0, 0]}, "vanishes at atom 1 (Fe)"),
        (FE | {"texture": "antiferromagnetic", "sublattices": [1, -1, 1]}, "3 signs are given for the 2 atoms"),
        (FE | {"texture": "antiferromagnetic", "sublattices": [1, 2]}, "spins.sublattices.1"),
        (FE | {"texture": "file"}, "structure.spins.texture: there are no magmoms"),
        (FE | {"direction": [0, 0, 0]}, "must not be [0, 0, 0]"),
        (FE | {"direction": [0, math.nan, 1]}, "three finite numbers"),
    ],
)
def test_errors_name_place_and_remedy(spins, words):
    assert words in message(IRON, **spins)
