"""Files that claim to be models of DeePMD-kit: malicious, damaged, foreign, or more than spinmd can represent."""

import io
import json
import os
import pickle
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import torch
from support import deepmd_files
from support.deepmd_files import tiny

from spinmd.errors import InputError
from spinmd.interop.deepmd import read_deepmd, write_deepmd
from spinmd.interop.pytorch_archive import read_archive
from spinmd.potentials.deepspin.model_file import write_model

# --- nothing in a file is run ---


def payload(marker):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    return Evil()


class Call:
    """Pickles to a call of a function by name."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickle_into(source, target, value):
    """Copy a PyTorch archive with another pickle in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(value, 2) if name.endswith("/data.pkl") else old.read(name))


@pytest.mark.parametrize("write", [deepmd_files.write_frozen, deepmd_files.write_checkpoint])
@pytest.mark.parametrize("deep", [False, True])
def test_a_malicious_pickle_does_nothing(tmp_path, write, deep):
    marker = tmp_path / "marker"
    value = {"model": [1, {"x": payload(marker)}]} if deep else payload(marker)
    pickle.loads(pickle.dumps(value))
    assert marker.exists(), "the payload works where it is unpickled in the usual way"
    marker.unlink()
    write(tiny(), tmp_path / "good")
    pickle_into(tmp_path / "good", tmp_path / "bad", value)
    with pytest.raises(InputError, match=r"names (posix|os)\.system, .* it was not loaded"):
        read_deepmd(tmp_path / "bad")
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        Call(eval, "1"),
        Call(getattr, [], "append"),
        Call(__import__, "os"),
        Call(np.fromfile, "x"),
        Call(io.open, "x"),
        Call(shutil.rmtree, "x"),
        Call(pickle.loads, b""),
    ],
)
def test_only_known_names_are_looked_up(tmp_path, value):
    deepmd_files.write_checkpoint(tiny(), tmp_path / "good")
    pickle_into(tmp_path / "good", tmp_path / "bad", value)
    with pytest.raises(InputError, match="could run code; it was not loaded"):
        read_archive(tmp_path / "bad")


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",  # a state for a function
        b"\x80\x02c__torch__.a\nB\n)\x81K\x01b.",  # an object with a number for its state
        b"\x80\x02c__torch__.a\nB\nK\x01\x85R.",  # an object made with arguments
        b"\x80\x02(X\x03\x00\x00\x00abcK\x01tQ.",  # a reference to no storage
        b"\x80\x02((X\x07\x00\x00\x00storagectorch\nDoubleStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuM\x00\xfftQtQ.",
        b"\x80\x02" + b"(" * 100,
        b"",
    ],
)
def test_pickles_that_make_no_sense(tmp_path, program):
    deepmd_files.write_checkpoint(tiny(), tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as old, zipfile.ZipFile(tmp_path / "bad", "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("/data.pkl") else old.read(name))
    with pytest.raises(InputError, match="damaged"):
        read_deepmd(tmp_path / "bad")


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (9,), (1,)),
        (7, (2,), (1,)),
        (0, (3, 3), (4, 1)),
        (0, (1 << 40, 1), (0, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
    ],
)
def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path, offset, size, stride):
    """torch does not save such a tensor: the numbers in the pickle are exchanged."""
    torch.save({"x": torch.arange(8.0)}, tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as old, zipfile.ZipFile(tmp_path / "bad", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/data.pkl"):
                start, end = data.index(b"QK\x00K\x08\x85q"), data.index(b"\x89")  # from the storage to requires_grad
                numbers = b"".join(pickle.dumps(x, 2)[2:-1] for x in (offset, size, stride))
                data = data[: start + 1] + numbers + data[end:]
            new.writestr(name, data)
    with pytest.raises(InputError, match="beyond its storage|larger than its storage|not made of numbers"):
        read_archive(tmp_path / "bad")


def test_a_plain_tensor_is_read(tmp_path):
    x = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4)
    torch.save({"a": x, "b": x.permute(2, 0, 1), "c": x[1, :, ::2], "d": torch.tensor(3)}, tmp_path / "x")
    found = read_archive(tmp_path / "x")
    for key, value in (("a", x), ("b", x.permute(2, 0, 1)), ("c", x[1, :, ::2]), ("d", torch.tensor(3))):
        assert (found[key] == value.numpy()).all() and found[key].shape == tuple(value.shape)


# --- damaged and foreign files ---


@pytest.mark.parametrize("kind", ["dp", "pth", "pt"])
def test_truncated_files(tmp_path, kind):
    path = tmp_path / f"model.{kind}"
    write = {"dp": write_deepmd, "pth": deepmd_files.write_frozen, "pt": deepmd_files.write_checkpoint}[kind]
    write(tiny(), path)
    whole = path.read_bytes()
    for part in np.linspace(0, len(whole) - 1, 25).astype(int):
        path.write_bytes(whole[:part])
        with pytest.raises(InputError):
            read_deepmd(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"hello\n", "not a model of DeePMD-kit's PyTorch backend"),
        (b"model:\n  type: [", "not a YAML model|needs the package pyyaml"),
        (b"PK\x03\x04 nothing", "damaged"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_deepmd(tmp_path / "x")


def test_missing_files_folders_and_our_own(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_deepmd(tmp_path / "absent.dp")
    with pytest.raises(InputError, match="this is a folder"):
        read_deepmd(tmp_path)
    write_model(tiny(), tmp_path / "m.h5")
    with pytest.raises(InputError, match="already a model of spinmd"):
        read_deepmd(tmp_path / "m.h5")


def edited_dp(path, edit):
    """A .dp whose tree has been changed by ``edit(tree, backbone)``."""
    write_deepmd(tiny(), path)
    with h5py.File(path, "a") as file:
        tree = json.loads(file.attrs["json"])
        edit(tree, tree["model"].get("backbone_model"))
        file.attrs["json"] = json.dumps(tree)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t, b: t.update(model={"type": "standard"}), "no spins"),
        (lambda t, b: t["model"].update(type="sezm_spin"), "another treatment of spins"),
        (lambda t, b: b.update(type="zbl"), "backbone of type 'zbl'"),
        (lambda t, b: b["descriptor"].update(type="dpa1"), "descriptor 'dpa1'"),
        (
            lambda t, b: b["descriptor"].update(activation_function="tanh", exclude_types=[[0, 1]]),
            "exclude_types in the",
        ),
        (lambda t, b: b["descriptor"]["env_mat"].update(use_exp_switch=True), "use_exp_switch"),
        (lambda t, b: b["fitting"].update(type="dipole"), "type 'dipole'"),
        (lambda t, b: b["fitting"].update(numb_fparam=2), "numb_fparam"),
        (lambda t, b: b["fitting"].update(numb_aparam=1), "numb_aparam"),
        (lambda t, b: b["fitting"].update(atom_ener=[1.0]), "atom_ener"),
        (lambda t, b: b["fitting"].update(mixed_types=True), "mixed_types"),
        (lambda t, b: b.update(atom_exclude_types=[0, 2, 3]), "energy of Fe"),
        (lambda t, b: b.update(pair_exclude_types=[]), "take part"),
        (lambda t, b: t["model"]["spin"].update(use_spin=[False, False]), "no magnetic element"),
        (lambda t, b: b["descriptor"].pop("rcut"), "rcut is missing"),
        (lambda t, b: b["descriptor"].update(rcut="x"), "rcut is not a number"),
        (lambda t, b: b["descriptor"].update(sel=[9, 9, 8, 9]), "differs between real and virtual"),
        (lambda t, b: b["descriptor"].update(sel=[9, 9]), "sel"),
        (lambda t, b: b["descriptor"]["embeddings"]["networks"].pop(), "15 embedding nets"),
        (lambda t, b: b["descriptor"]["@variables"].update(davg="/absent"), "'/absent' is missing"),
        (
            lambda t, b: b["descriptor"]["embeddings"]["networks"][0]["layers"][0].update(activation_function="relu6"),
            "activation function 'relu6'",
        ),
        (lambda t, b: t["model"]["spin"].update(virtual_scale=[0.1, 0.2, 0.3]), "virtual_scale has 3"),
    ],
)
def test_models_that_spinmd_cannot_represent(tmp_path, edit, message):
    edited_dp(tmp_path / "x.dp", edit)
    with pytest.raises(InputError, match=message) as raised:
        read_deepmd(tmp_path / "x.dp")
    assert raised.value.place == str(tmp_path / "x.dp")


@pytest.mark.parametrize("value", [0.25, [0.25], [0.25, 0.0], [0.25, 7.0]])
def test_forms_of_the_virtual_scale(tmp_path, value):
    edited_dp(tmp_path / "x.dp", lambda t, b: t["model"]["spin"].update(virtual_scale=value))
    assert read_deepmd(tmp_path / "x.dp").virtual_scale.tolist() == [0.25, 0.0]


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda p: p.pop("spin"), "no spins"),
        (lambda p: p.update(model_dict={}), "multi-task"),
        (lambda p: p["descriptor"].update(type="dpa2"), "descriptor 'dpa2'"),
        (lambda p: p["spin"].update(scheme="native"), "scheme 'native'"),
        (lambda p: p["fitting_net"].update(numb_fparam=1), "numb_fparam"),
        (lambda p: p.update(use_srtab="t"), "pair table"),
        (lambda p: p["descriptor"].pop("rcut"), "rcut is missing"),
        (lambda p: p["spin"].pop("use_spin"), "use_spin is missing"),
    ],
)
def test_checkpoints_that_spinmd_cannot_represent(tmp_path, edit, message):
    deepmd_files.write_checkpoint(tiny(), tmp_path / "x.pt", edit)
    with pytest.raises(InputError, match=message):
        read_deepmd(tmp_path / "x.pt")


def test_no_protection_means_a_hundredth(tmp_path):
    """What DeePMD-kit does with spin models, lest a vanishing spin divides by zero."""
    deepmd_files.write_checkpoint(tiny(), tmp_path / "x.pt", lambda p: p["descriptor"].update(env_protection=0.0))
    assert read_deepmd(tmp_path / "x.pt").network.protection == 0.01
    deepmd_files.write_checkpoint(tiny(), tmp_path / "x.pt", lambda p: p["descriptor"].update(env_protection=0.02))
    assert read_deepmd(tmp_path / "x.pt").network.protection == 0.02


@pytest.mark.parametrize("value", [[0], ["Fe"], [True, False]])
def test_forms_of_use_spin(tmp_path, value):
    deepmd_files.write_checkpoint(tiny(), tmp_path / "x.pt", lambda p: p["spin"].update(use_spin=value))
    assert read_deepmd(tmp_path / "x.pt").magnetic.tolist() == [True, False]


def freeze_edit(name, **attributes):
    def edit(root):
        module = root
        for part in name.split(".") if name else []:
            module = getattr(module, part)
        for key, value in attributes.items():
            setattr(module, key, value)

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (freeze_edit("backbone_model.atomic_model.descriptor.sea", compress=True), "compressed"),
        (freeze_edit("backbone_model.atomic_model.fitting_net", numb_fparam=1), "numb_fparam"),
        (freeze_edit("backbone_model.atomic_model.fitting_net", var_name="dos"), "fitting net"),
        (lambda root: delattr(root, "virtual_scale_mask"), "unknown structure"),
        (lambda root: delattr(root.backbone_model.atomic_model.descriptor, "sea"), "another descriptor"),
        (lambda root: delattr(root.backbone_model.atomic_model.descriptor.sea, "rcut"), "sea.rcut is missing"),
        (lambda root: setattr(root.backbone_model.atomic_model, "type_map", ["Fe"]), "type_map names 1"),
    ],
)
def test_frozen_models_that_spinmd_cannot_represent(tmp_path, edit, message):
    deepmd_files.write_frozen(tiny(), tmp_path / "x.pth", edit)
    with pytest.raises(InputError, match=message):
        read_deepmd(tmp_path / "x.pth")
