"""Model files: what is written is read, and everything else is refused with a sentence."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from support.deepspin_models import make_random_model, random_net

from spinmd.errors import InputError
from spinmd.potentials.deepspin.model import DeepSpinModel, SeenRange
from spinmd.potentials.deepspin.model_check import check_model
from spinmd.potentials.deepspin.model_file import FORMAT_VERSION, _digest, is_model_file, read_model, write_model


def tiny(**changes) -> DeepSpinModel:
    model = make_random_model(
        elements=("Fe", "O"), magnetic=(True, False), neuron=(3, 6), axis=2, fitting=(5, 5), sel=4, **changes
    )
    random = np.random.default_rng(3)
    model.network.silent = {(3, c): random_net(random, (1, 3, 6)) for c in range(2)}
    model.seen = SeenRange(np.array([[2.1, np.inf], [np.inf, np.inf]]), np.array([[1.5, 2.9], [0.0, 0.0]]))
    model.provenance = {"data": ["a", "b"], "steps": 100, "rate": 0.1}
    return model


def layers_of(model: DeepSpinModel):
    network = model.network
    return [
        *(("embedding", key, layer) for key, net in network.embedding.items() for layer in net),
        *(("silent", key, layer) for key, net in network.silent.items() for layer in net),
        *(("fitting", c, layer) for c, net in enumerate(network.fitting) for layer in net),
    ]


def assert_equal(one, other):
    """Every field, array bit by bit."""
    if dataclasses.is_dataclass(one):
        assert type(one) is type(other)
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def test_what_is_written_is_read(tmp_path):
    model = tiny(time_reversal=True)
    write_model(model, tmp_path / "m.h5")
    assert_equal(read_model(tmp_path / "m.h5"), model)
    assert is_model_file(tmp_path / "m.h5")
    assert os.listdir(tmp_path) == ["m.h5"]


def test_a_float32_network_stays_one(tmp_path):
    model = tiny()
    model.network.precision = "float32"
    for _, _, layer in layers_of(model):
        layer.weight = layer.weight.astype(np.float32)
    write_model(model, tmp_path / "m.h5")
    assert_equal(read_model(tmp_path / "m.h5"), model)


def test_a_prior_comes_back(tmp_path, monkeypatch):
    class Prior:
        cutoff = 5.0

        def __init__(self, settings, arrays):
            self.settings, self.arrays = settings, arrays

    monkeypatch.setitem(sys.modules, "spinmd.potentials.deepspin.prior", type(sys)("prior"))
    monkeypatch.setattr(sys.modules["spinmd.potentials.deepspin.prior"], "Prior", Prior, raising=False)
    model = tiny()
    model.network = None
    model.prior = Prior({"cutoff": 5.0, "terms": ["pair"]}, {"a": np.arange(4.0), "b/c": np.ones((2, 2))})
    write_model(model, tmp_path / "m.h5")
    back = read_model(tmp_path / "m.h5")
    assert back.network is None and back.prior.settings == model.prior.settings
    assert_equal(back.prior.arrays, model.prior.arrays)


def test_nets_over_invariants_come_back_with_their_prior(tmp_path):
    from spinmd.potentials.deepspin.prior import Prior, invariant_count

    settings = {
        "elements": ["Fe", "O"],
        "magnetic": [True, False],
        "reference_moment": [2.2, 0.0],
        "atomic_numbers": [26, 8],
        "shortest": [[2.0, 1.6], [1.6, 2.0]],
    }
    model = tiny()
    model.network = None
    model.prior = Prior(settings)
    random = np.random.default_rng(4)
    model.invariants = [random_net(random, (invariant_count(model.prior, c), 5, 1)) for c in range(2)]
    write_model(model, tmp_path / "m.h5")
    back = read_model(tmp_path / "m.h5")
    assert_equal(back.invariants, model.invariants)
    assert_equal(back.prior.arrays, model.prior.arrays)
    assert back.prior.settings == model.prior.settings
    back.invariants[1][0].weight = back.invariants[1][0].weight[1:]
    with pytest.raises(InputError, match="invariants net 1 layer 0: weight has"):
        check_model(back)
    back.prior, back.network = None, tiny().network
    with pytest.raises(InputError, match="but no prior"):
        check_model(back)


def test_the_same_model_makes_the_same_bytes(tmp_path):
    for name in "ab":
        write_model(tiny(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_writing_over_a_model_replaces_it_whole(tmp_path):
    path = tmp_path / "m.h5"
    write_model(tiny(), path)
    good = path.read_bytes()
    broken = tiny()
    broken.provenance = {"function": print}
    with pytest.raises(InputError, match="provenance"):
        write_model(broken, path)
    assert path.read_bytes() == good
    write_model(tiny(seed=2), path)
    assert path.read_bytes() != good
    assert os.listdir(tmp_path) == ["m.h5"]


def test_reading_does_not_import_torch(tmp_path):
    write_model(tiny(), tmp_path / "m.h5")
    code = (
        "import sys; from spinmd.potentials.deepspin.model_file import read_model; "
        f"read_model({str(tmp_path / 'm.h5')!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


# --- files that are no models ---


def write_text(path):
    path.write_text("not a model\n")


def write_nothing(path):
    path.write_bytes(b"")


def write_other_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)


def write_portable(path):
    with h5py.File(path, "w") as file:
        file.attrs["json"] = json.dumps({"model": {}})


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("frozen/data.pkl", pickle.dumps(1))


def write_yaml(path):
    path.write_text("backend: PyTorch\nmodel:\n  type: spin_ener\n")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "this is a folder"),
        (write_text, "not a model file of spinmd"),
        (write_nothing, "not a model file of spinmd"),
        (write_other_hdf5, "holds no DeepSPIN model"),
        (write_portable, r"portable model \(.dp\) of DeePMD-kit; convert it first: spinmd convert"),
        (write_zip, r"PyTorch file .* convert it first: spinmd convert"),
        (write_yaml, "YAML model of DeePMD-kit.* convert it first: spinmd convert"),
    ],
)
def test_other_files_are_refused(tmp_path, make, message):
    path = tmp_path / "file"
    make(path)
    with pytest.raises(InputError, match=message) as raised:
        read_model(path)
    assert raised.value.place == str(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "m.h5"
    write_model(tiny(), path)
    whole = path.read_bytes()
    for part in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:part])
        with pytest.raises(InputError):
            read_model(path)


def test_flipped_bits_are_noticed_or_harmless(tmp_path):
    """Wherever a bit flips: an error, or the model as it was (padding)."""
    path = tmp_path / "m.h5"
    model = tiny()
    write_model(model, path)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    errors = 0
    for place in random.integers(0, len(whole), 120):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            assert_equal(read_model(path), model)
        except InputError:
            errors += 1
    assert errors > 20


def change(path, edit):
    """Edit the arrays and the description of a file, and seal it with a right checksum."""
    with h5py.File(path, "r") as file:
        text = file["description"][()].decode()
        arrays = {}
        file["arrays"].visititems(lambda k, x: arrays.update({k: x[()]}) if isinstance(x, h5py.Dataset) else None)
    description = json.loads(text)
    edit(description, arrays)
    text = json.dumps(description)
    with h5py.File(path, "a") as file:
        del file["arrays"], file["description"]
        file["description"] = text
        file.create_group("arrays")
        for key, array in arrays.items():
            file[f"arrays/{key}"] = array
        file.attrs["sha256"] = _digest(text, arrays)


WEIGHT, BIAS = "network/embedding/2-1/1/weight", "network/embedding/2-1/1/bias"


def set_nan(description, arrays):
    arrays[WEIGHT][0, 0] = np.nan


@pytest.mark.parametrize(
    "edit, message",
    [
        (set_nan, r"embedding net \(2, 1\) layer 1: weight holds values that are not finite"),
        (lambda d, a: a.pop(WEIGHT), WEIGHT + " is missing"),
        (lambda d, a: a.update({WEIGHT: np.zeros((2, 6))}), "has 2 rows, but what comes in has width 3"),
        (lambda d, a: a.update({WEIGHT: np.zeros((3, 5)), BIAS: np.zeros(5)}), "ends with width 5, expected 6"),
        (lambda d, a: a.update({WEIGHT: np.zeros((3, 6), int)}), "numbers of type int64"),
        (lambda d, a: a.update({"network/std": np.zeros((2, 4))}), "std must be positive"),
        (lambda d, a: a.update({"network/mean": np.ones((2, 4))}), "mean of the directions"),
        (lambda d, a: a.update({"network/sel": np.array([4, 0])}), "sel must be 2 positive integers"),
        (lambda d, a: a.update({"shift": np.zeros(3)}), "shift has shape"),
        (lambda d, a: d["network"].update(axis=7), "axis must be an integer from 1 to the width 6"),
        (lambda d, a: d["network"].update(axis=1), "but what comes in has width 6"),
        (lambda d, a: d["network"].update(cutoff_smooth=9.0), "cutoff_smooth must lie between"),
        (lambda d, a: d["network"].update(protection=0.0), "protection must be positive"),
        (lambda d, a: d["network"].update(precision="float16"), "precision must be"),
        (lambda d, a: d["network"]["fitting"].pop(), "2 fitting nets"),
        (lambda d, a: d.update(elements=["Fe", "Fe"]), "named twice"),
        (lambda d, a: d.update(magnetic=[False, False]), "virtual scale of a non-magnetic element"),
        (lambda d, a: d.pop("magnetic"), "magnetic is missing"),
        (lambda d, a: d.update(network=None), "neither a network nor a prior"),
        (lambda d, a: d["network"]["fitting"][0][0].update(activation="exec"), "not an activation function"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, edit, message):
    path = tmp_path / "m.h5"
    write_model(tiny(), path)
    change(path, edit)
    with pytest.raises(InputError, match=message):
        read_model(path)


def test_a_changed_file_without_a_checksum_is_refused(tmp_path):
    path = tmp_path / "m.h5"
    write_model(tiny(), path)
    with h5py.File(path, "a") as file:
        file[f"arrays/{WEIGHT}"][0, 0] += 1.0
    with pytest.raises(InputError, match="checksum"):
        read_model(path)


def test_a_newer_format_is_named(tmp_path):
    path = tmp_path / "m.h5"
    write_model(tiny(), path)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
    with pytest.raises(InputError, match=f"format version {FORMAT_VERSION + 1}.*use a newer spinmd"):
        read_model(path)


def test_an_inconsistent_model_is_not_written(tmp_path):
    model = tiny()
    model.network.axis = 100
    with pytest.raises(InputError, match="axis"):
        write_model(model, tmp_path / "m.h5")
    assert os.listdir(tmp_path) == []
    check_model(tiny())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_model(tiny(), tmp_path / "absent" / "m.h5")
