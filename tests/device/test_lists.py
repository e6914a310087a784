"""Neighbour lists on the device hold the pairs of the host's."""

import numpy as np
import pytest

from spinmd.neighbors import NeighbourLists
from spinmd.state import State

CELLS = {
    "orthogonal": (np.diag([6.0, 7.0, 8.0]), (True, True, True)),
    "triclinic": (np.array([[6.0, 0, 0], [1.5, 7, 0], [-1, 2, 8.0]]), (True, True, True)),
    "film": (np.diag([9.0, 9.0, 9.0]), (True, False, True)),
    "cluster": (np.diag([9.0, 9.0, 9.0]), (False, False, False)),
}


def make(name, atoms=10):
    cell, pbc = CELLS[name]
    positions = np.random.default_rng(1).random((atoms, 3)) @ cell
    return State.create(cell, positions, ["Fe", "Co"] * (atoms // 2), [55.0] * atoms, pbc=pbc)


def neighbours(state, lists, radius):
    """For each atom the sorted relative vectors of its neighbours."""
    one = lists.lists[radius]
    table, count, packed = one.neighbours.host(), one.count.host(), lists.packed.host()
    return [_sorted(packed[table[: count[i], i], :3] - packed[i, :3]) for i in range(state.natoms)]


def expected(state, lists, radius):
    pairs = lists.pairs(radius)
    found = []
    for i in range(state.natoms):
        entries = pairs.neighbours[pairs.start[i] : pairs.start[i + 1]]
        found.append(_sorted(pairs.packed[entries[entries != pairs.dummy], :3] - pairs.packed[i, :3]))
    return found


def _sorted(vectors):
    return vectors[np.lexsort(np.round(vectors, 7).T)]


@pytest.mark.parametrize("name", CELLS)
def test_pairs_are_those_of_the_host(name):
    from spinmd.cuda.lists import BUILDS, OVERFLOW, DeviceLists
    from spinmd.cuda.state import DeviceState

    state = make(name)
    device = DeviceState(state)
    lists, host = DeviceLists(device, [5.0, 3.4]), NeighbourLists(state, [5.0, 3.4])
    lists.update()
    if lists.grow(lists.status.host()):
        lists.update()
    host.update(state)
    for radius in (5.0, 3.4):
        for mine, theirs in zip(neighbours(state, lists, radius), expected(state, host, radius), strict=True):
            assert mine.shape == theirs.shape and np.allclose(mine, theirs, atol=1e-12)
    assert lists.status.host()[BUILDS] == 1 and not lists.status.host()[OVERFLOW]


def test_lists_rebuild_themselves_when_an_atom_has_moved_half_the_skin():
    from spinmd.cuda.lists import BUILDS, DeviceLists
    from spinmd.cuda.state import DeviceState

    device = DeviceState(make("orthogonal"))
    lists = DeviceLists(device, [4.0])
    for shift, builds in ((0.0, 1), (0.2, 1), (0.03, 2), (0.2, 2)):
        device.positions.tensor[3, 1] += shift
        lists.update()
        assert lists.status.host()[BUILDS] == builds


def test_a_list_that_has_no_room_asks_for_it():
    from spinmd.cuda.lists import OVERFLOW, DeviceList, DeviceLists
    from spinmd.cuda.state import DeviceState

    device = DeviceState(make("orthogonal"))
    lists = DeviceLists(device, [4.0])
    lists.lists[4.0] = DeviceList(4.0, device.natoms, 2, lists)
    lists.update()
    assert lists.status.host()[OVERFLOW]
    assert lists.grow(lists.status.host())
    lists.update()
    assert not lists.status.host()[OVERFLOW] and lists.lists[4.0].count.host().min() > 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers that are none
def test_atoms_that_are_nowhere_end_a_run_and_nothing_else():
    """What is no number, or far too large, is in no bin and no list: no place outside of an array, and no bin of all."""
    from spinmd.cuda.lists import LOST, OVERFLOW, DeviceLists
    from spinmd.cuda.state import DeviceState

    device = DeviceState(make("orthogonal"))
    lists = DeviceLists(device, [5.0, 3.4])
    lists.update()
    kept = lists.packed.host()
    positions = device.positions.host()
    positions[0], positions[1, 2], positions[2, 0] = np.nan, np.inf, -1e200
    device.positions.set(positions)
    lists.update()
    assert lists.status.host()[LOST] == 1 and lists.status.host()[OVERFLOW] == 0
    for radius in (5.0, 3.4):
        one = lists.lists[radius]
        table, count = one.neighbours.host(), one.count.host()
        assert (count[:3] == 0).all() and count[3:].max() > 0
        assert all(
            (table[: count[i], i] < len(kept)).all() and not set(table[: count[i], i]) & {0, 1, 2} for i in range(10)
        )


def test_what_short_lists_have_done_is_forgotten_with_them():
    """Forces of lists that were too short may throw atoms away before the host looks; those steps are repeated."""
    from spinmd.cuda.lists import BUILDS, LOST, OVERFLOW, DeviceLists
    from spinmd.cuda.state import DeviceState

    lists = DeviceLists(DeviceState(make("orthogonal")), [5.0])
    lists.update()
    lists.status.tensor[OVERFLOW] = lists.status.tensor[LOST] = 1
    assert lists.grow(lists.status.host())
    assert not lists.status.host()[[OVERFLOW, LOST]].any()
    lists.update()
    builds = lists.status.host()[BUILDS]
    lists.rebuild_at_last()
    assert lists.status.host()[BUILDS] == builds == 1
