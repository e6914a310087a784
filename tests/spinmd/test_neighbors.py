"""Neighbour lists against ASE's, which is independent, on hundreds of random cells; the rebuild rule; ghosts; sorting."""

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from spinmd.errors import InputError
from spinmd.neighbors import NeighbourLists, cell_heights
from spinmd.state import State


def random_state(rng, natoms=None, triclinic=True, pbc=None, scale=(2.0, 9.0)):
    natoms = int(rng.integers(1, 40)) if natoms is None else natoms
    cell = np.diag(rng.uniform(*scale, 3))
    if triclinic:
        cell += rng.uniform(-0.45, 0.45, (3, 3)) * cell.diagonal()[None, :]
    if np.linalg.det(cell) < 0.2 * np.prod(np.linalg.norm(cell, axis=1)):
        cell = np.diag(np.linalg.norm(cell, axis=1))
    pbc = rng.random(3) < 0.6 if pbc is None else np.array(pbc)
    positions = rng.uniform(-1.3, 2.3, (natoms, 3)) @ cell  # outside the cell too
    return State.create(cell, positions, ["Fe"] * natoms, np.ones(natoms), pbc=pbc)


def ours(state, pairs, cutoff):
    """Sorted (i, j, dx, dy, dz) of all ordered pairs within the cutoff, original indices, from the list."""
    rows = []
    for i in range(state.natoms):
        for k in pairs.neighbours[pairs.start[i] : pairs.start[i + 1]]:
            d = pairs.packed[k, :3] - pairs.packed[i, :3]
            if d @ d < cutoff**2:
                rows.append((state.ids[i], state.ids[pairs.owner[k]], *d))
    return sort_rows(rows)


def theirs(state, cutoff):
    atoms = Atoms(f"Fe{state.natoms}", positions=state.positions, cell=state.cell, pbc=state.pbc)
    i, j, d = neighbor_list("ijD", atoms, cutoff)
    return sort_rows([(state.ids[a], state.ids[b], *v) for a, b, v in zip(i, j, d, strict=True)])


def sort_rows(rows):
    array = np.array(rows).reshape(-1, 5)
    rounded = np.round(array, 6) + 0.0
    return array[np.lexsort(rounded.T[::-1])]


def assert_same(state, lists, cutoff):
    mine, other = ours(state, lists.pairs(cutoff), cutoff), theirs(state, cutoff)
    assert mine.shape == other.shape
    np.testing.assert_allclose(mine, other, atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_random_cells_against_ase(seed):
    """25 cells a seed: triclinic, any mix of boundaries, smaller than the cutoff, two cutoff classes."""
    rng = np.random.default_rng(seed)
    for case in range(25):
        state = random_state(rng, triclinic=bool(case % 4))
        long, short = rng.uniform(3.0, 6.0), rng.uniform(1.0, 3.0)
        lists = NeighbourLists(state, [long, short], skin=rng.uniform(0.0, 0.6))
        lists.update(state)
        assert_same(state, lists, long)
        assert_same(state, lists, short)


def test_one_atom_sees_its_own_images():
    state = State.create(np.eye(3) * 2.0, [[0.3, 0.2, 0.1]], ["Fe"], [1.0])
    lists = NeighbourLists(state, [4.1], skin=0.0)
    lists.update(state)
    counts = lists.pairs(4.1).pair_count
    assert counts == 6 + 12 + 8 + 6  # |n| = 1, √2, √3, 2


@pytest.mark.parametrize("pbc", [(False, False, False), (True, False, True), (True, True, True)])
def test_larger_system_is_complete_and_padded(pbc):
    """A system large enough for many bins and for the sort in space."""
    rng = np.random.default_rng(3)
    state = random_state(rng, natoms=3000, pbc=pbc, scale=(26.0, 34.0))
    lists = NeighbourLists(state, [4.0, 2.5], skin=0.3)
    state.permute(lists.sorted_order(state))
    lists.update(state)
    assert not np.array_equal(state.ids, np.arange(3000))
    assert_same(state, lists, 4.0)
    assert_same(state, lists, 2.5)
    for radius in (4.0, 2.5):
        pairs = lists.pairs(radius)
        assert (np.diff(pairs.start) % 8 == 0).all()
        assert pairs.neighbours[: pairs.start[-1]].max() <= pairs.dummy


def test_sorting_puts_neighbours_close_in_memory():
    rng = np.random.default_rng(5)
    state = random_state(rng, natoms=4000, triclinic=False, pbc=(True, True, True), scale=(30.0, 31.0))

    def spread(state):
        lists = NeighbourLists(state, [4.0], skin=0.2)
        lists.update(state)
        pairs = lists.pairs(4.0)
        centre = np.repeat(np.arange(state.natoms), np.diff(pairs.start))
        real = pairs.neighbours[: pairs.start[-1]] < state.natoms
        return np.abs(centre - pairs.neighbours[: pairs.start[-1]])[real].mean()

    before = spread(state)
    state.permute(NeighbourLists(state, [4.0]).sorted_order(state))
    assert spread(state) < 0.4 * before


def test_rebuild_rule_never_misses_a_pair():
    """Atoms diffuse and the cell strains; after every update the lists hold all pairs, whether they were rebuilt or not."""
    rng = np.random.default_rng(8)
    rebuilt = 0
    for triclinic in (False, True):
        state = random_state(rng, natoms=60, triclinic=triclinic, pbc=(True, True, False), scale=(7.0, 9.0))
        lists = NeighbourLists(state, [3.5, 2.0], skin=0.5)
        lists.update(state)
        for step in range(120):
            state.positions += rng.normal(0.0, 0.015, state.positions.shape)
            if step % 2:
                strain = np.eye(3) + rng.normal(0.0, 0.003, (3, 3))
                state.cell[:] = state.cell @ strain
                state.positions[:] = state.positions @ strain
            rebuilt += lists.update(state)
            assert_same(state, lists, 3.5)
            assert_same(state, lists, 2.0)
    assert 4 < rebuilt < 200


def test_rebuild_rule_is_sharp():
    """Two atoms that approach each other by just less and just more than the skin."""
    state = State.create(np.eye(3) * 30.0, [[5.0, 5.0, 5.0], [9.45, 5.0, 5.0]], ["Fe"] * 2, [1.0, 1.0], pbc=[False] * 3)
    lists = NeighbourLists(state, [4.0], skin=0.4)
    lists.update(state)
    state.positions[0, 0] += 0.1999
    state.positions[1, 0] -= 0.1999
    assert not lists.update(state)
    state.positions[0, 0] += 0.0002
    assert lists.update(state)


def test_compression_of_the_cell_alone_triggers_a_rebuild():
    """No atom moves relative to the cell, but pairs come closer than the list reached."""
    rng = np.random.default_rng(2)
    state = random_state(rng, natoms=200, triclinic=False, pbc=(True, True, True), scale=(14.0, 15.0))
    lists = NeighbourLists(state, [4.0], skin=0.3)
    lists.update(state)
    for scale in (0.99, 0.97, 0.9, 0.9):
        state.positions *= scale
        state.cell *= scale
        lists.update(state)
        assert_same(state, lists, 4.0)
    assert lists.builds == 3  # 0.99 and 0.96 leave 4.26 and 4.13 of 4.3 Å, still beyond the cutoff


def test_images_keep_unwrapped_positions():
    rng = np.random.default_rng(4)
    state = random_state(rng, natoms=30, pbc=(True, True, False))
    before = state.positions.copy()
    lists = NeighbourLists(state, [3.0])
    lists.update(state)
    np.testing.assert_allclose(state.unwrapped(), before, atol=1e-12)
    fractional = state.positions @ np.linalg.inv(state.cell)
    assert (fractional[:, :2] > -1e-9).all() and (fractional[:, :2] < 1 + 1e-9).all()
    assert (state.images[:, 2] == 0).all()


def test_same_history_gives_the_same_lists():
    """Built at the positions that a checkpoint stores, the lists are the same to the last index."""
    rng = np.random.default_rng(6)
    state = random_state(rng, natoms=500, pbc=(True, True, True), scale=(12.0, 14.0))
    lists = NeighbourLists(state, [3.5])
    lists.update(state)
    first = lists.pairs(3.5).neighbours[: lists.pairs(3.5).start[-1]].copy()
    again = NeighbourLists(state, [3.5])
    state.positions[:] = lists.history()["positions"]
    again.update(state)
    np.testing.assert_array_equal(first, again.pairs(3.5).neighbours[: again.pairs(3.5).start[-1]])


def test_cell_heights():
    cell = np.array([[2.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.5, 0.5, 4.0]])
    volume = np.linalg.det(cell)
    expected = [volume / np.linalg.norm(np.cross(cell[(a + 1) % 3], cell[(a + 2) % 3])) for a in range(3)]
    np.testing.assert_allclose(cell_heights(cell), expected)


def test_negative_skin_is_refused():
    state = State.create(np.eye(3) * 5.0, [[0.0, 0.0, 0.0]], ["Fe"], [1.0])
    with pytest.raises(InputError, match=r"neighbours\.skin"):
        NeighbourLists(state, [3.0], skin=-0.1)
