"""Models of DeePMD-kit: read from its four kinds of files, written for it, and what they evaluate to."""

import json
import os

import h5py
import numpy as np
import pytest
from support import deepmd_files, deepspin_dense
from support.deepmd_files import arrays, assert_same, exclude, tiny

from spinmd.errors import InputError
from spinmd.interop.deepmd import convert, read_deepmd, write_deepmd
from spinmd.potentials.deepspin.model_file import read_model, write_model

VARIANTS = {
    "one magnetic": tiny,
    "both magnetic": lambda: tiny(magnetic=(True, True), neuron=(4, 4, 8), axis=5, fitting=(7, 7, 7)),
    "three elements": lambda: tiny(elements=("Ni", "O", "Mg"), magnetic=(True, False, False), fitting=(6,)),
    "gelu": lambda: tiny(activation="gelu"),
    "softplus": lambda: tiny(activation="softplus"),
    "excluded pair": lambda: exclude(tiny(), 0, 1),
    "excluded element": lambda: exclude(tiny(magnetic=(True, True)), 1, 1),
}


@pytest.fixture(params=VARIANTS)
def model(request):
    return VARIANTS[request.param]()


# --- there and back ---


def test_portable_file_there_and_back(tmp_path, model):
    write_deepmd(model, tmp_path / "a.dp")
    once = read_deepmd(tmp_path / "a.dp")
    assert_same(once, model)
    write_deepmd(once, tmp_path / "b.dp")
    assert_same(read_deepmd(tmp_path / "b.dp"), model)
    assert sorted(os.listdir(tmp_path)) == ["a.dp", "b.dp"]


def test_frozen_model(tmp_path, model):
    deepmd_files.write_frozen(model, tmp_path / "frozen.pth")
    back = read_deepmd(tmp_path / "frozen.pth")
    assert_same(back, model)
    assert back.provenance["min_distance"] == 2.1


def test_training_checkpoint(tmp_path, model):
    deepmd_files.write_checkpoint(model, tmp_path / "model.ckpt-7.pt")
    back = read_deepmd(tmp_path / "model.ckpt-7.pt")
    assert_same(back, model)
    assert back.provenance["training"]["step"] == 7


def test_yaml_file(tmp_path, model):
    yaml = pytest.importorskip("yaml")
    write_deepmd(model, tmp_path / "a.dp")
    with h5py.File(tmp_path / "a.dp") as file:
        tree = json.loads(file.attrs["json"])

        def load(value, inside=False):
            if isinstance(value, dict):
                return {k: load(x, inside or k == "@variables") for k, x in value.items()}
            if isinstance(value, list):
                return [load(x) for x in value]
            if not inside or value is None:
                return value
            array = file[value][()]
            head = {"@class": "np.ndarray", "@is_variable": True, "@version": 1}
            return {**head, "dtype": array.dtype.name, "value": array.tolist()}

        tree = load(tree)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    assert_same(read_deepmd(tmp_path / "a.yaml"), model)


def test_content_decides_and_not_the_name(tmp_path):
    write_deepmd(tiny(), tmp_path / "a.pth")
    deepmd_files.write_frozen(tiny(), tmp_path / "b.dp")
    deepmd_files.write_checkpoint(tiny(), tmp_path / "c.yaml")
    for name in ("a.pth", "b.dp", "c.yaml"):
        assert_same(read_deepmd(tmp_path / name), tiny())


def test_float32_stays_float32(tmp_path):
    model = tiny()
    model.network.precision = "float32"
    values = arrays(model)
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype == float and key not in ("shift", "virtual_scale"):
            value[...] = value.astype(np.float32)
    write_deepmd(model, tmp_path / "a.dp")
    with h5py.File(tmp_path / "a.dp") as file:
        kinds = {x.dtype.name for x in file.values()}
    assert kinds == {"float32", "float64"}  # energies per element are float64
    assert_same(read_deepmd(tmp_path / "a.dp"), model)
    # numbers that float32 does not have are not rounded
    model.network.fitting[0][0].weight[0, 0] += 1.0e-12
    write_deepmd(model, tmp_path / "b.dp")
    back = read_deepmd(tmp_path / "b.dp")
    assert back.network.precision == "float64"
    assert back.network.fitting[0][0].weight[0, 0] == model.network.fitting[0][0].weight[0, 0]


def test_type_one_side_is_replicated(tmp_path):
    """One net per neighbour type serves all centres."""
    write_deepmd(tiny(), tmp_path / "a.dp")
    with h5py.File(tmp_path / "a.dp", "a") as file:
        tree = json.loads(file.attrs["json"])
        descriptor = tree["model"]["backbone_model"]["descriptor"]
        descriptor["type_one_side"] = True
        nets = descriptor["embeddings"]
        nets["networks"], nets["ndim"] = nets["networks"][::4], 1  # those of centre type 0, of 4 types
        file.attrs["json"] = json.dumps(tree)
    back = read_deepmd(tmp_path / "a.dp").network
    for t in range(3):
        for c in range(2):
            assert (back.embedding[t, c][1].weight == tiny().network.embedding[t, 0][1].weight).all()
    back.embedding[0, 0][0].weight += 1.0  # they do not share memory
    assert (back.embedding[0, 1][0].weight == tiny().network.embedding[0, 0][0].weight).all()


def test_pairs_without_any_net_contribute_nothing(tmp_path):
    """DeePMD has a net for every pair: zeros are written, and the energy is the same."""
    model = tiny(activation="softplus")  # not zero at zero
    model.network.silent = {}
    del model.network.embedding[1, 1]
    write_deepmd(model, tmp_path / "a.dp")
    back = read_deepmd(tmp_path / "a.dp")
    assert set(back.network.silent) == {(1, 1), (3, 0), (3, 1)}
    system = small_system()
    assert deepspin_dense.energy(back, *system) == pytest.approx(deepspin_dense.energy(model, *system), rel=1e-14)


def small_system(seed=2):
    random = np.random.default_rng(seed)
    cell = np.array([[4.0, 0.0, 0.0], [0.5, 4.2, 0.0], [0.0, -0.3, 4.4]])
    positions = np.array([[0.0, 0.0, 0.0], [2.0, 2.1, 2.2]]) + random.normal(scale=0.1, size=(2, 3))
    spins = np.array([[0.3, -1.0, 1.8], [0.0, 0.0, 0.0]])
    return cell, positions, np.array([0, 1]), spins


# --- the reference of the real package ---


@pytest.fixture(scope="module")
def reference(shared):
    return shared / "reference" / "deepmd"


def test_reference_files_hold_the_same_weights(reference):
    one = read_deepmd(reference / "model_small.dp")
    assert_same(read_deepmd(reference / "model_small.pth"), one)
    assert one.elements == ("Ni", "O")
    assert one.magnetic.tolist() == [True, False]
    assert one.virtual_scale.tolist() == [0.314, 0.0]
    assert one.network.protection == 0.01
    assert one.network.sel.tolist() == [46, 46]
    assert set(one.network.silent) == {(3, 0), (3, 1)}


@pytest.fixture(scope="module")
def nio(reference):
    data = np.load(reference / "nio32_perturbed.npz")
    model = read_deepmd(reference / "model_small.dp")
    return model, (data["cell"], data["positions"], data["type_index"], data["spins"]), data


def test_reference_energies(nio):
    model, system, data = nio
    energies = deepspin_dense.atom_energies(model, *system)
    assert energies.sum() == pytest.approx(float(data["energy"]), rel=1e-12)
    np.testing.assert_allclose(energies, data["atom_energy"][:, 0], rtol=1e-12)
    model.network.silent, kept = {}, model.network.silent
    try:  # the slots of placeholders matter
        assert abs(deepspin_dense.energy(model, *system) - data["energy"]) > 1.0
    finally:
        model.network.silent = kept


@pytest.mark.parametrize("atom, axis", [(3, 1), (17, 0), (30, 2)])
def test_reference_forces(nio, atom, axis):
    model, system, data = nio
    # the switch of this model is 0.2 Å wide: sixth-order differences of 2e-3 Å leave 1e-8 eV/Å
    assert deepspin_dense.force(model, *system, atom, axis) == pytest.approx(data["forces"][atom, axis], abs=3e-8)


@pytest.mark.parametrize("atom, axis", [(0, 0), (3, 2), (9, 1)])
def test_reference_fields(nio, atom, axis):
    model, system, data = nio
    assert data["mask_mag"][atom, 0]
    assert deepspin_dense.field(model, *system, atom, axis) == pytest.approx(data["force_mag"][atom, axis], abs=1e-7)


@pytest.mark.parametrize("a, b", [(0, 0), (0, 1), (1, 0), (2, 1)])
def test_reference_virial(nio, a, b):
    model, system, data = nio
    assert deepspin_dense.virial(model, *system, a, b) == pytest.approx(data["virial"][a, b], abs=1e-6)


# --- writing, converting ---


def with_step(model):
    model.network.embedding[0, 0][0].step = np.ones(3)  # from 1 to 3: neither the same width nor twice
    return model


def one_way(model):
    del model.network.embedding[0, 1]
    return model


def no_network(model):
    model.network, model.prior = None, object()
    return model


def with_prior(model):
    model.prior = object()
    return model


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tiny(time_reversal=True), "network.time_reversal = false"),
        (lambda: with_prior(tiny()), "prior.enabled = false"),
        (lambda: no_network(tiny()), "no network"),
        (lambda: with_step(tiny()), "learned step"),
        (lambda: one_way(tiny()), "excluded both ways"),
    ],
)
def test_what_deepmd_cannot_evaluate_is_not_written(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        write_deepmd(make(), tmp_path / "x.dp")
    assert os.listdir(tmp_path) == []


def test_convert_both_ways(tmp_path):
    deepmd_files.write_frozen(tiny(), tmp_path / "frozen.pth")
    text = convert(tmp_path / "frozen.pth", tmp_path / "m.h5")
    assert "DeepSPIN model of Fe (magnetic), O" in text and "cutoff 4.2 Å" in text
    assert_same(read_model(tmp_path / "m.h5"), tiny())
    assert read_model(tmp_path / "m.h5").provenance["source"] == "frozen.pth"
    convert(tmp_path / "m.h5", tmp_path / "m.dp")
    assert_same(read_deepmd(tmp_path / "m.dp"), tiny())
    convert(tmp_path / "m.dp", tmp_path / "n.HDF5")
    assert_same(read_model(tmp_path / "n.HDF5"), tiny())


def test_convert_refuses(tmp_path):
    write_model(tiny(), tmp_path / "m.h5")
    write_model(tiny(seed=5), tmp_path / "n.h5")
    before = (tmp_path / "n.h5").read_bytes()
    os.symlink("m.h5", tmp_path / "link.h5")
    (tmp_path / "folder.h5").mkdir()
    for target, message in (
        ("n.h5", "the file exists"),
        ("m.h5", "the same file"),
        ("link.h5", "the same file"),
        ("x.pth", "dp convert-backend x.dp x.pth"),
        ("x.json", r"ends in .h5 \(spinmd\) or .dp"),
        ("folder.h5", "this is a folder"),
        ("absent/x.h5", "folder does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            convert(tmp_path / "m.h5", tmp_path / target)
    with pytest.raises(InputError, match="the same file"):
        convert(tmp_path / "m.h5", tmp_path / "m.h5", force=True)
    with pytest.raises(InputError, match="no such file"):
        convert(tmp_path / "absent.dp", tmp_path / "x.h5")
    assert (tmp_path / "n.h5").read_bytes() == before
    convert(tmp_path / "m.h5", tmp_path / "n.h5", force=True)
    assert_same(read_model(tmp_path / "n.h5"), tiny())


def test_the_dense_reference_is_smooth_and_invariant():
    """What is compared with must itself be right: periodic images, permutation, rotation."""
    model = tiny(magnetic=(True, True), sel=60)
    cell, positions, types, spins = small_system()
    spins[1] = [0.5, 0.2, -0.1]
    energy = deepspin_dense.energy(model, cell, positions, types, spins)
    moved = positions + np.array([[1, 0, -2], [0, 3, 0]]) @ cell
    assert deepspin_dense.energy(model, cell, moved, types, spins) == pytest.approx(energy, rel=1e-12)
    order = [1, 0]
    swapped = deepspin_dense.energy(model, cell, positions[order], types[order], spins[order])
    assert swapped == pytest.approx(energy, rel=1e-13)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = deepspin_dense.energy(model, cell @ turn, positions @ turn, types, spins @ turn)
    assert turned == pytest.approx(energy, rel=1e-12)
    double = deepspin_dense.energy(
        model,
        cell * [[2], [1], [1]],
        np.concatenate([positions, positions + cell[0]]),
        np.tile(types, 2),
        np.tile(spins, (2, 1)),
    )
    assert double == pytest.approx(2 * energy, rel=1e-12)
    assert abs(deepspin_dense.energy(model, cell, positions, types, -spins) - energy) > 1e-6
