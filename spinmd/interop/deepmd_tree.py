"""DeePMD-kit's portable form of a spin model, ``SpinModel.serialize()``: nested dicts with arrays, to parts.

It stands in a ``.dp`` file (HDF5: arrays, and the rest as JSON in the attribute ``json``) and in a ``.yaml`` file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spinmd.errors import InputError
from spinmd.interop.deepmd_parts import Parts, activation, damaged, unsupported, weights
from spinmd.potentials.deepspin.model import Layer, Net
from spinmd.segments import open_file

MISSING = object()


class Branch:
    """A dict of the tree that knows its path and complains in whole sentences. No code of the file is ever run."""

    def __init__(self, value: Any, path: str, place: str):
        if not isinstance(value, dict):
            damaged(f"{path or 'the model'} is missing", place)
        self.value, self.path, self.place = value, path, place

    def name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str, default: Any = MISSING) -> Any:
        value = self.value.get(key, default)
        if value is MISSING:
            damaged(f"{self.name(key)} is missing", self.place)
        return value

    def branch(self, key: str) -> "Branch":
        return Branch(self.get(key), self.name(key), self.place)

    def branches(self, key: str) -> list["Branch"]:
        return [Branch(x, f"{self.name(key)}[{k}]", self.place) for k, x in enumerate(self.sequence(key))]

    def sequence(self, key: str, default: Any = MISSING) -> list:
        value = self.get(key, default)
        if not isinstance(value, list):
            damaged(f"{self.name(key)} is not a list", self.place)
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            damaged(f"{self.name(key)} is not a number", self.place)
        return float(value)

    def integer(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            damaged(f"{self.name(key)} is not an integer", self.place)
        return value

    def integers(self, key: str, default: Any = MISSING) -> list[int]:
        value = self.sequence(key, default)
        if not all(isinstance(x, int) and not isinstance(x, bool) for x in value):
            damaged(f"{self.name(key)} is not a list of integers", self.place)
        return value

    def pairs(self, key: str) -> list[list[int]]:
        value = self.sequence(key, [])
        if not all(isinstance(x, (list, tuple)) and len(x) == 2 and all(isinstance(t, int) for t in x) for x in value):
            damaged(f"{self.name(key)} is not a list of pairs of types", self.place)
        return [list(x) for x in value]

    def array(self, key: str) -> np.ndarray:
        value = weights(self.get("@variables").get(key), self.name(key), self.place)
        if value is None:
            damaged(f"{self.name(key)} is missing", self.place)
        return value


def read_dp(path: Path) -> dict[str, Any]:
    """The tree of a ``.dp`` file with its arrays in place. InputError if it is damaged or something else."""
    place = str(path)
    try:
        with open_file(path) as file:
            tree = json.loads(file.attrs["json"])

            def load(name: Any) -> np.ndarray:
                if not isinstance(name, str) or not isinstance(file.get(name), h5py.Dataset):
                    damaged(f"the array {name!r} is missing", place)
                return file[name][()]

            return _replace(tree, load)
    except InputError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError and more for damaged files
        raise InputError(f"the file is damaged ({error}); make or copy it again", place) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The tree of a ``.yaml`` file with its arrays in place. InputError if it is damaged or something else."""
    place = str(path)
    try:
        import yaml
    except ImportError:
        raise InputError(
            "reading YAML models needs the package pyyaml: install it with `pip install pyyaml`, or make a .dp file: "
            "dp convert-backend model.yaml model.dp",
            place,
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both make plain data only

    def load(value: Any) -> Any:
        if isinstance(value, dict) and value.get("@class") == "np.ndarray":
            if value.get("dtype") not in ("float64", "float32", "int32", "int64"):
                damaged(f"an array has the type {value.get('dtype')!r}", place)
            return np.array(value.get("value"), dtype=value["dtype"])
        return value

    try:
        with open(path, encoding="utf-8") as file:
            return _replace(yaml.load(file, loader), load)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" in line {line + 1}"
        raise InputError(f"the file is damaged{where}: it is not a YAML model; make or copy it again", place) from None


def _replace(value: Any, load: Callable[[Any], Any], variable: bool = False) -> Any:
    """The tree with what stands under ``@variables`` loaded."""
    if isinstance(value, dict) and not value.get("@is_variable"):
        return {k: _replace(x, load, variable or k == "@variables") for k, x in value.items()}
    if isinstance(value, list) and not variable:
        return [_replace(x, load) for x in value]
    return load(value) if variable and value is not None else value


# ------------------------------------------------------------------ tree -> parts


def parts_from_tree(tree: dict[str, Any], place: str) -> Parts:
    """The parts of a spin model's tree. InputError for other models, by name of what is different."""
    root = Branch(tree, "", place)
    model = root.branch("model")
    kind = model.get("type", "of unknown type")
    if kind != "spin_ener":
        if "spin" in model.value:
            unsupported(f"another treatment of spins ({kind})", place)
        unsupported(f"no spins (type {kind!r})", place)
    backbone = model.branch("backbone_model")
    if backbone.get("type") != "standard":
        unsupported(f"a backbone of type {backbone.get('type')!r} (only 'standard', no ZBL and no linear mix)", place)
    descriptor, fitting = backbone.branch("descriptor"), backbone.branch("fitting")
    _check_descriptor(descriptor)
    _check_fitting(fitting)
    bias = backbone.array("out_bias")
    spin = model.branch("spin")
    embedding, fit = descriptor.branch("embeddings"), fitting.branch("nets")
    return Parts(
        type_map=backbone.sequence("type_map"),
        use_spin=spin.sequence("use_spin"),
        virtual_scale=spin.get("virtual_scale"),
        cutoff=descriptor.number("rcut"),
        cutoff_smooth=descriptor.number("rcut_smth"),
        protection=descriptor.number("env_protection"),
        sel=descriptor.integers("sel"),
        axis=descriptor.integer("axis_neuron"),
        one_side=bool(descriptor.get("type_one_side")),
        mean=descriptor.array("davg"),
        std=descriptor.array("dstd"),
        embedding=[_net(x) for x in embedding.branches("networks")],
        fitting=[_net(x) for x in fit.branches("networks")],
        out_bias=bias.reshape(-1),
        fit_bias=fitting.array("bias_atom_e").reshape(-1),
        excluded=backbone.pairs("pair_exclude_types"),
        masked=descriptor.pairs("exclude_types"),
        silenced=backbone.integers("atom_exclude_types", []),
        provenance={
            "program": f"{root.get('software', 'deepmd-kit')} {root.get('version', '')}".strip(),
            "definition": root.get("model_def_script", None),
        },
    )


def _check_descriptor(descriptor: Branch) -> None:
    kind = descriptor.get("type")
    if kind not in ("se_e2_a", "se_a"):
        unsupported(f"the descriptor {kind!r}", descriptor.place)
    if descriptor.get("env_mat", {}).get("use_exp_switch"):
        unsupported("an exponential switching function (use_exp_switch)", descriptor.place)
    if descriptor.get("compress", None):
        unsupported("compressed embedding nets; convert the model from before `dp compress`", descriptor.place)


def _check_fitting(fitting: Branch) -> None:
    place = fitting.place
    if fitting.get("type") != "ener":
        unsupported(f"a fitting net of type {fitting.get('type')!r}", place)
    for key, what in (
        ("numb_fparam", "frame parameters (numb_fparam)"),
        ("numb_aparam", "atomic parameters (numb_aparam)"),
        ("dim_case_embd", "a case embedding (dim_case_embd)"),
        ("mixed_types", "one fitting net for all types (mixed_types)"),
        ("atom_ener", "energies of atoms in vacuum (atom_ener)"),
    ):
        if fitting.get(key, None):
            unsupported(what, place)


def _net(branch: Branch) -> Net:
    net = []
    for layer in branch.branches("layers"):
        variables = layer.branch("@variables").value
        net.append(
            Layer(
                layer.array("w"),
                weights(variables.get("b"), layer.name("b"), layer.place),
                weights(variables.get("idt"), layer.name("idt"), layer.place),
                activation(layer.get("activation_function"), layer.place),
                bool(layer.get("resnet")),
            )
        )
    return net


def precision_of(tree: dict[str, Any]) -> str:
    """float32 if every layer of the tree is, else float64 (which holds both exactly)."""
    found = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("@class") == "Layer":
                found.add(np.asarray(value["@variables"]["w"]).dtype.name)
            for x in value.values():
                walk(x)
        elif isinstance(value, list):
            for x in value:
                walk(x)

    walk(tree)
    return "float32" if found == {"float32"} else "float64"
