"""DeepSPIN on the device gives what it gives on the host: networks, priors, nets over invariants, and both together."""

import numpy as np
import pytest
from support.deepspin_models import make_random_model

from spinmd.model import Model
from spinmd.potentials.deepspin.model import DeepSpinModel
from spinmd.potentials.deepspin.model_file import read_model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.potentials.deepspin.prior import Prior, invariant_count
from spinmd.potentials.deepspin.starting_weights import new_net
from spinmd.protocols import Need
from spinmd.state import State

SHEAR = np.array([[1.0, 0.0, 0.0], [0.21, 1.03, 0.0], [-0.13, 0.17, 0.98]])
SMALL = {"neuron": (3, 6), "axis": 3, "fitting": (7, 7), "sel": 60}
ALL = Need.ENERGY | Need.FORCE | Need.FIELD | Need.VIRIAL


def crystal(elements=("Fe", "Co"), moments=(2.2, 1.7), repeat=(2, 2, 1), a=2.87):
    """A perturbed, triclinic bcc cell whose atoms alternate between the elements; random spins."""
    random = np.random.default_rng(1)
    corners = np.array(list(np.ndindex(*repeat)), float)
    sites = a * np.concatenate([corners, corners + 0.5]) @ SHEAR
    symbols = [elements[k % len(elements)] for k in range(len(sites))]
    spins = random.normal(size=sites.shape)
    spins *= (np.resize(moments, len(sites)) / np.linalg.norm(spins, axis=1))[:, None]
    positions = sites + random.normal(scale=0.08, size=sites.shape)
    cell = a * np.array(repeat, float)[:, None] * SHEAR
    return State.create(cell, positions, symbols, np.full(len(sites), 55.0), spins=spins)


def both(model, state, precision="float64"):
    """The model of the host, and that of the device with its state."""
    from spinmd.cuda.model import DeviceModel
    from spinmd.cuda.state import DeviceState
    from spinmd.potentials.cuda import device_term

    host = Model(state, [DeepSpin.of(model, precision)], threads=1)
    host.update_lists()
    there = DeviceState(state)
    return host, there, DeviceModel(there, host, device_term)


def assert_close(mine, theirs, tolerance, what):
    scale = max(np.abs(theirs).max(), 1e-3)
    assert np.abs(mine - theirs).max() <= tolerance * scale, (what, np.abs(mine - theirs).max() / scale)


def compare(host, device, tolerance, need=ALL):
    expected = host.evaluate(need)
    device.evaluate(need)
    if Need.ENERGY in need:
        assert_close(device.total_energies(), expected.energies, tolerance, "energies")
    if Need.FORCE in need:
        assert_close(device.forces.host(), expected.forces, tolerance, "forces")
    if Need.FIELD in need:
        assert_close(device.fields.host(), expected.fields, tolerance, "fields")
    if Need.VIRIAL in need:
        assert_close(device.virials.host().sum(axis=0).reshape(3, 3), expected.virial, tolerance, "virial")


def check(model, state, precision="float64", tolerance=1e-12):
    host, _, device = both(model, state, precision)
    compare(host, device, tolerance)


def random_prior(elements, magnetic, nets=True, resnet=False, activation="tanh", **settings):
    """A model with a random prior, and random nets over its invariants."""
    n, rng = len(elements), np.random.default_rng(3)
    numbers = {"Fe": 26, "Co": 27, "O": 8}
    prior = Prior(
        {
            "elements": list(elements), "magnetic": list(magnetic), "reference_moment": [2.0 + 0.3 * k for k in range(n)],
            "atomic_numbers": [numbers[e] for e in elements], "cutoff": 3.6, "many_body_functions": 3, "pair_functions": 5,
            "shortest": [[2.45 + 0.07 * (a + b) for b in range(n)] for a in range(n)], **settings,
        }
    )  # fmt: skip
    prior = prior.with_coefficients(rng.normal(scale=1e-3, size=prior.count))
    made = None
    if nets:
        made = [
            new_net([invariant_count(prior, a), 5, 10], activation, rng, bias=0.3, output=True, resnet=resnet, steps=resnet)
            for a in range(n)
        ]  # fmt: skip
        for net in made:
            net[0].weight *= 0.05
    return DeepSpinModel(tuple(elements), np.array(magnetic), np.zeros(n), rng.normal(size=n), None, prior, made)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_network_with_time_reversal(precision):
    model = make_random_model(time_reversal=True, **SMALL)
    check(model, crystal(), precision, 1e-12 if precision == "float64" else 1e-5)


@pytest.mark.parametrize(
    ("options", "state_options"),
    [
        ({"magnetic": (False, True)}, {"moments": (0.0, 1.1)}),
        ({"elements": ("Fe",), "magnetic": (True,), "fitting": (18, 36)}, {"elements": ("Fe",), "repeat": (1, 1, 2)}),
        (
            {"activation": "gelu", "neuron": (5, 10), "fitting": (6,)},
            {"repeat": (1, 1, 1)},
        ),  # atoms see their own images
    ],
    ids=["one element without spins", "shortcuts", "gelu"],
)
def test_network(options, state_options):
    check(make_random_model(**{**SMALL, **options}), crystal(**state_options))


@pytest.mark.parametrize(
    ("options", "state_options"),
    [
        ({"elements": ("Fe", "Co"), "magnetic": (True, True)}, {}),
        ({"elements": ("O", "Fe"), "magnetic": (False, True), "resnet": True, "activation": "silu"},
         {"elements": ("O", "Fe"), "moments": (0.0, 2.0)}),
        ({"elements": ("Fe", "Co"), "magnetic": (True, True), "nets": False}, {"elements": ("Co",), "repeat": (1, 1, 2)}),
        ({"elements": ("Fe",), "magnetic": (True,), "nets": False, "many_body": False, "pair_functions": 9},
         {"elements": ("Fe",), "repeat": (1, 1, 2)}),
    ],
    ids=["two elements", "one element without spins", "an element that is not there", "pairs only"],
)  # fmt: skip
def test_prior(options, state_options):
    check(random_prior(**options), crystal(**state_options))


def test_shipped_model(root):
    check(read_model(root / "inputs/models/fcc_iron.h5"), crystal(("Fe",), (1.3,), (1, 1, 2), 2.75))


def test_prior_and_network_together_in_small_blocks_of_rows(monkeypatch):
    monkeypatch.setattr("spinmd.potentials.cuda.deepspin_network.BLOCK_BYTES", 60_000)
    monkeypatch.setattr("spinmd.potentials.cuda.deepspin_prior.BLOCK_BYTES", 20_000)
    model, other = (
        make_random_model(**SMALL),
        random_prior(("Fe", "Co"), (True, True), nets=False, many_body_functions=1),
    )
    model.prior = other.prior
    host, _, device = both(model, crystal())
    compare(host, device, 1e-12)
    assert all(part._rows < 4 for part in device.terms[0].parts)  # of eight atoms, four of each element


def test_fields_in_a_spin_solve_follow_the_spins_and_move_nothing():
    from spinmd.cuda.arrays import reset_transfers, transfers, zeros

    state = crystal(("Fe",), (2.2,), (1, 1, 2))
    model = make_random_model(("Fe",), (True,), **SMALL)
    model.prior = random_prior(("Fe",), (True,), nets=False, many_body_functions=1).prior
    host, there, device = both(model, state)
    assert device.live_terms() == [0]
    compare(host, device, 1e-12, Need.FIELD)
    spins = np.roll(state.spins, 1, axis=0) * 1.05
    positions = state.positions + 0.01 * np.random.default_rng(5).normal(size=state.positions.shape)
    for change in (spins, positions):
        name = "spins" if change is spins else "positions"
        getattr(there, name).set(change)
        getattr(state, name)[:] = change
        host.moved(**{name: True})
        device.moved(**{name: True})
        mine, theirs = zeros(spins.shape), np.zeros(spins.shape)
        reset_transfers()
        device.add_live_fields(mine)
        assert transfers.to_host == transfers.to_device == 0
        host.add_live_fields(theirs)
        assert_close(mine.host(), theirs, 1e-12, name)
    compare(host, device, 1e-12, Need.FORCE | Need.FIELD)


def test_the_transpose_of_a_list():
    _, there, device = both(make_random_model(**SMALL), crystal())
    device.update_lists()
    pairs, transpose = device.pairs(0), device.terms[0]._transpose
    transpose.update(pairs)
    device.lists.restore(
        device.list_history() | {"positions": there.positions.host()[::-1].copy()}
    )  # as many builds as before
    transpose.update(pairs)
    reverse, neighbours, count = transpose.reverse.host(), pairs.neighbours.host(), pairs.count.host()
    owner, packed = pairs.owner.host(), pairs.packed.host()[:, :3]
    for i in range(there.natoms):
        for k in range(count[i]):
            n = neighbours[k, i]
            back = neighbours[reverse[k, i], owner[n]]
            assert owner[back] == i
            assert np.allclose(packed[back] - packed[owner[n]], packed[i] - packed[n], atol=1e-12)


@pytest.mark.parametrize("what", ["spin", "distance"])
def test_what_has_left_the_range_of_the_model_is_reported(what):
    from spinmd.cuda.lists import LOST

    state = crystal()
    _, there, device = both(make_random_model(seen=True, **SMALL), state)
    device.evaluate(Need.FIELD)
    assert not device.lists.status.host()[LOST]
    if what == "spin":
        there.spins.tensor[3] *= 1.5
    else:
        there.positions.tensor[3] = there.positions.tensor[2] + 0.3
    device.moved()
    device.evaluate(Need.FIELD)
    assert device.lists.status.host()[LOST]
