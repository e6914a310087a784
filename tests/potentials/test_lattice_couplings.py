"""Couplings by shell and by list on a rigid lattice: known shells, brute force, and every contradiction in a list."""

import itertools

import numpy as np
import pytest

from spinmd.errors import InputError
from spinmd.model import Model
from spinmd.potentials.dmi import DMI
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.lattice_pairs import find_shells
from spinmd.potentials.tensor import TensorExchange
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.testing import check_potential

A = 2.87
BCC = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])


def crystal(repeat, basis=BCC, elements=("Fe", "Fe"), spins=None, moments=None, pbc=(True, True, True), seed=0):
    cells = np.array(list(itertools.product(*[range(n) for n in repeat])), float)
    positions = A * (cells[:, None] + basis).reshape(-1, 3)
    n = len(positions)
    random = np.random.default_rng(seed)
    spins = random.normal(size=(n, 3)) if spins is None else spins
    return State.create(
        A * np.diag(repeat),
        positions,
        list(elements) * len(cells),
        np.full(n, 55.0),
        spins=spins,
        moments=moments,
        pbc=pbc,
    )


def evaluate(state, *terms, need=Need.ENERGY | Need.FIELD):
    return Model(state, terms, threads=1).evaluate(need)


@pytest.mark.parametrize(
    ("basis", "counts", "distances"),
    [
        ([[0, 0, 0]], [6, 12, 8], [1.0, 2**0.5, 3**0.5]),
        (BCC, [8, 6, 12, 24, 8, 6], [0.75**0.5, 1.0, 2**0.5, 2.75**0.5, 3**0.5, 2.0]),
        ([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], [12, 6, 24, 12], [0.5**0.5, 1.0, 1.5**0.5, 2**0.5]),
    ],
)
@pytest.mark.parametrize("repeat", [(1, 1, 1), (4, 3, 2)])
def test_shells_of_cubic_lattices(basis, counts, distances, repeat):
    state = crystal(repeat, np.array(basis), ["Fe"] * len(basis))
    table = find_shells(state, np.ones((1, 1), bool), len(counts), 0.05)
    assert (np.bincount(table.values) == np.array(counts) * state.natoms).all()
    for shell, distance in enumerate(distances):
        np.testing.assert_allclose(
            np.linalg.norm(table.vectors[table.values == shell], axis=1), A * distance, rtol=1e-12
        )


def test_ferromagnet_by_shells():
    """J_0 of bcc Fe, 12.4098 mRy with both directions of a pair (UppASD's couplings, twice ours in its convention)."""
    couplings = [1.33767484769984, 0.7570357654565, -0.05975437643846, -0.08819834160658]
    state = crystal((2, 2, 2), spins=np.tile([0.0, 0.0, 2.23], (16, 1)))
    term = Exchange(form="shells", J=[f"{j} mRy" for j in couplings])
    energy = evaluate(state, term).energy / 13.605693122990e-3
    assert energy == pytest.approx(-0.5 * 16 * 12.4098, rel=1e-5)
    assert evaluate(state, Exchange(form="shells", J=[0.02, 0.01], offset=True)).energy == pytest.approx(0.0, abs=1e-15)


def test_displaced_atoms_keep_their_couplings():
    state = crystal((3, 3, 3))
    term = Exchange(form="shells", J=[0.02, 0.01])
    before = evaluate(state, term).energy
    state.positions += np.random.default_rng(1).normal(scale=0.3, size=state.positions.shape)
    result = evaluate(state, Exchange(form="shells", J=[0.02, 0.01]), need=Need.ALL)
    assert result.energy == before
    assert not result.forces.any()
    assert not result.virial.any()
    assert term.cutoff == 0.0


def test_open_boundaries_and_non_magnetic_atoms():
    spins = np.tile([0.0, 0.0, 1.0], (16, 1))
    bulk = crystal((2, 2, 2), spins=spins)
    cluster = crystal((2, 2, 2), spins=spins, pbc=(False, False, False))
    term = Exchange(form="shells", J=[1.0])
    # of the 8 second sites 1 has all its 8 neighbours in the cluster, as many bonds as (first, second) pairs exist
    distances = np.linalg.norm(cluster.positions[:, None] - cluster.positions[None], axis=2)
    bonds = np.count_nonzero(abs(distances - A * 0.75**0.5) < 1e-9) / 2
    assert evaluate(cluster, term).energy == pytest.approx(-bonds)
    assert evaluate(bulk, term).energy == pytest.approx(-16 * 4)
    spins = spins.copy()
    spins[1::2] = 0.0
    alternating = crystal((2, 2, 2), spins=spins)
    # without the body centres the first shell of the magnetic atoms is the cubic one
    assert evaluate(alternating, term).energy == pytest.approx(-8 * 3)


def test_result_is_the_same_in_any_order_of_the_atoms():
    state = crystal((3, 2, 2))
    term = DMI(form="shells", D=[0.002, -0.001])
    model = Model(state, [term], threads=1)
    fields = model.evaluate(Need.ALL).fields.copy()
    state.permute(np.random.default_rng(2).permutation(state.natoms))
    model = Model(state, [term], threads=1)
    assert (state.original_order(model.evaluate(Need.ALL).fields) == fields).all()


def write(path, lines):
    path.write_text("# a list\n" + "\n".join(lines) + "\n")
    return path


def test_list_by_vector_is_the_shells(tmp_path):
    first = [f"Fe Fe {x * A / 2} {y * A / 2} {z * A / 2} 20" for x, y, z in itertools.product((-1, 1), repeat=3)]
    second = [f"Fe Fe {x} {y} {z} 10  # once, its reverse follows" for x, y, z in A * np.eye(3)]
    listed = Exchange(form="list", file=write(tmp_path / "j", first + second), unit="meV")
    shells = Exchange(form="shells", J=[0.02, 0.01])
    for repeat in ((1, 1, 1), (3, 2, 2)):
        one, other = (evaluate(crystal(repeat), term) for term in (listed, shells))
        assert one.energy == pytest.approx(other.energy, rel=1e-13)
        np.testing.assert_allclose(one.fields, other.fields, atol=1e-15)


def test_list_by_index_against_brute_force(tmp_path):
    random = np.random.default_rng(4)
    state = crystal((1, 1, 2))
    lines, energy = [], 0.0
    e = state.spins / state.moments[:, None]
    for i, j, shift in ((0, 1, (0, 0, 0)), (0, 2, (1, 0, -1)), (3, 3, (0, 1, 0)), (2, 1, (0, 0, 5))):
        tensor = random.normal(size=(3, 3))
        lines.append(" ".join(map(str, (i, j, *shift, *tensor.ravel()))))
        energy -= e[i] @ tensor @ e[j]  # the pair and its reverse, half each
    potential = TensorExchange(form="list", file=write(tmp_path / "t", lines))
    assert evaluate(state, potential).energy == pytest.approx(energy, rel=1e-13)
    check_potential(potential, state, supercell=False)


def test_list_of_dmi_vectors_between_elements(tmp_path):
    state = crystal((2, 2, 2), elements=("Fe", "Co"))
    lines = [
        f"Fe Co {x * A / 2} {y * A / 2} {z * A / 2} {x} {y} {z}" for x, y, z in itertools.product((-1, 1), repeat=3)
    ]
    listed = DMI(form="list", file=write(tmp_path / "d", lines), unit="meV")
    shells = DMI(form="shells", D=[0.001 * 3**0.5], pairs=["Fe-Co"])
    one, other = evaluate(state, listed), evaluate(state, shells)
    # in B2 the vector of the pair Co-Fe is the reverse of that of Fe-Co, as with D along the bond
    assert one.energy == pytest.approx(other.energy, rel=1e-12)
    np.testing.assert_allclose(one.fields, other.fields, atol=1e-15)
    check_potential(listed, state)


def test_one_pair_of_each_kind(tmp_path):
    """A dimer: E = −J e·e', −D·(e × e'), −e T e', each written once in the list."""
    state = State.create(
        np.eye(3) * 20.0, [[5.0, 5.0, 5.0], [5.0, 5.0, 7.5]], ["Fe", "Fe"], [55.0, 55.0],
        spins=[[2.2, 0.0, 0.0], [0.0, 1.1, 0.0]], moments=[2.2, 1.1], pbc=(False, False, False),
    )  # fmt: skip
    vector = DMI(form="list", file=write(tmp_path / "d", ["Fe Fe 0 0 2.5 0.1 0.2 0.3"]))
    # e × e' = z, and the reverse pair has −D and −z: E = −D_z
    assert evaluate(state, vector).energy == pytest.approx(-0.3)
    tensor = TensorExchange(form="list", file=write(tmp_path / "t", ["0 1 0 0 0  1 2 3 4 5 6 7 8 9"]))
    result = evaluate(state, tensor)
    assert result.energy == pytest.approx(-2.0)
    np.testing.assert_allclose(result.fields, [[2 / 2.2, 5 / 2.2, 8 / 2.2], [1 / 1.1, 2 / 1.1, 3 / 1.1]])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Fe Fe 0 0 2.87 1", "Fe Fe 0 0 -2.87 2"], "contradicts line 2"),
        (["0 1 0 0 0 1", "1 0 0 0 0 2"], "contradicts line 2"),
        (["0 1 0 0 0 1", "Fe Fe 0 0 2.87 1"], "cannot be mixed"),
        (["Fe Fe 0 0 2.5 1"], "no two magnetic atoms Fe and Fe lie"),
        (["Fe Ni 0 0 2.5 1"], "the structure has no Ni"),
        (["Fe Fe 0 0 2.87"], "expected 6 entries"),
        (["Fe Fe 0 0 up 1"], "two elements, three numbers"),
        (["Fe Fe 0 0 2.87 nan"], "not finite"),
        (["0 9 0 0 0 1"], "indices run from 0 to 1"),
        (["0 0 0 0 0 1"], "coupled to itself"),
        ([], "holds no couplings"),
    ],
)
def test_wrong_lists_say_what_is_wrong(lines, message, tmp_path):
    file = write(tmp_path / "couplings.dat", lines)
    with pytest.raises(InputError, match=message) as caught:
        evaluate(crystal((1, 1, 1)), Exchange(form="list", file=file))
    assert "couplings.dat" in caught.value.place


def test_ambiguous_and_missing_shells():
    random = np.random.default_rng(5)
    state = crystal((3, 3, 3))
    state.reference += random.normal(scale=0.05, size=state.reference.shape)
    with pytest.raises(InputError, match="is ambiguous"):
        evaluate(state, Exchange(form="shells", J=[0.02, 0.01]))
    dimer = State.create(
        np.eye(3) * 9, [[0, 0, 0], [0, 0, 2.5]], ["Fe"] * 2, [55.0] * 2, spins=np.eye(3)[:2], pbc=(0, 0, 0)
    )
    with pytest.raises(InputError, match="3 shells are given, the structure has 1"):
        evaluate(dimer, Exchange(form="shells", J=[1, 2, 3]))
    with pytest.raises(InputError, match="beyond the cutoff"):
        evaluate(crystal((2, 2, 2)), Exchange(form="shells", J=[1, 2, 3], cutoff=3.0))
    bare = crystal((1, 1, 1), spins=np.zeros((2, 3)))
    with pytest.raises(InputError, match="need magnetic atoms"):
        evaluate(bare, Exchange(form="shells", J=[1]))
