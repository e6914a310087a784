"""A DeepSpinModel as DeePMD-kit's portable ``.dp`` file, which ``dp convert-backend`` turns into a ``.pth``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spinmd import __version__
from spinmd.errors import InputError
from spinmd.potentials.deepspin.model import DeepSpinModel, Layer, Net, Network
from spinmd.segments import written_whole


def write_dp(model: DeepSpinModel, path: Path, place: str = "") -> None:
    """Write a consistent model; the file appears whole or not at all.

    InputError, at ``place`` (default: the path), for what DeePMD cannot evaluate.
    """
    tree = tree_from_model(model, place or str(path))
    try:
        with written_whole(path) as file:
            count = 0

            def store(value: Any, variable: bool = False) -> Any:
                nonlocal count
                if isinstance(value, dict):
                    return {key: store(x, variable or key == "@variables") for key, x in value.items()}
                if isinstance(value, list):
                    return [store(x, variable) for x in value]
                if not variable or value is None:
                    return value
                count += 1
                return file.create_dataset(f"variable_{count - 1:04d}", data=value, track_times=False).name

            # a text of variable length: it may be longer than the 64 KiB of other attributes
            text = json.dumps(store(tree), separators=(",", ":"))
            file.attrs["json"] = text
    except OSError as error:
        raise InputError(f"cannot write the model: {error.strerror or error}", str(path)) from None


def _check_writable(model: DeepSpinModel, place: str) -> None:
    if model.network is None:
        raise InputError("the model has no network, and DeePMD-kit has nothing else; train one with a network", place)
    if model.prior is not None or model.invariants is not None:
        raise InputError(
            "the model has a classical prior, which DeePMD-kit does not know; train one without (prior.enabled = false)",
            place,
        )
    if model.time_reversal:
        raise InputError(
            "the model is a mean over S and −S, which DeePMD-kit does not do; train one with network.time_reversal = false",
            place,
        )
    network = model.network
    for nets in (network.embedding.values(), network.silent.values(), network.fitting):
        for net in nets:
            for layer in net:
                n_in, n_out = layer.weight.shape
                if layer.step is not None and n_out not in (n_in, 2 * n_in):
                    raise InputError(
                        f"a layer from {n_in} to {n_out} has a learned step, which DeePMD-kit has only where the width "
                        "stays or doubles; train a model without it there",
                        place,
                    )
    n = len(model.elements)
    for t in range(n):
        for c in range(n):
            if (t, c) not in network.embedding and (c, t) in network.embedding:
                one, other = model.elements[c], model.elements[t]
                raise InputError(
                    f"{one} sees {other} less than {other} sees {one}; in DeePMD-kit pairs are excluded both ways",
                    place,
                )


def _stored_precision(network: Network) -> np.dtype:
    """float32 for a float32 network whose numbers all are, else float64: nothing is rounded."""
    arrays = [network.mean, network.std]
    for nets in (network.embedding.values(), network.silent.values(), network.fitting):
        arrays += [x for net in nets for layer in net for x in (layer.weight, layer.bias, layer.step) if x is not None]
    if network.precision == "float32" and all((x == x.astype(np.float32)).all() for x in arrays):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def tree_from_model(model: DeepSpinModel, place: str) -> dict[str, Any]:
    """The tree that DeePMD-kit 3.2's ``SpinEnergyModel.deserialize`` understands, with numpy arrays under @variables.

    Nets that nothing ever sees (centres that are virtual atoms, pairs in neither dict) are written as zeros.
    Raises InputError for what DeePMD cannot evaluate.
    """
    _check_writable(model, place)
    network = model.network
    n = len(model.elements)
    types = range(2 * n)
    dtype = _stored_precision(network)
    slots = 2 * int(network.sel.sum())
    widths = [layer.weight.shape[1] for layer in next(iter(network.embedding.values()))]
    hidden = [layer.weight.shape[1] for layer in network.fitting[0][:-1]]
    # pairs (neighbour, centre) whose slots stay empty; of a placeholder, pairs with virtual centres too, as DeePMD has it
    absent = [n + t for t in range(n) if not model.magnetic[t]]
    apart = [
        [t, c] for t in types for c in (types if t in absent else range(n)) if c >= n or (t, c) not in network.embedding
    ]
    names = [*model.elements, *(f"{name}_spin" for name in model.elements)]
    silenced = [n + t for t in range(n)]
    net_in = network.width * int(network.axis)

    def nets(
        first: Callable[[int], Net | None], count: int, kind: str, n_in: int, inner: list[int], n_out: int
    ) -> list[dict[str, Any]]:
        empty = [Layer(np.zeros((a, b)), np.zeros(b), None, "linear", False) for a, b in _steps(n_in, inner, n_out)]
        return [_tree_net(first(k) or empty, kind, dtype) for k in range(count)]

    def pair(k: int) -> Net | None:
        key = divmod(k, 2 * n)
        return network.embedding.get(key) or network.silent.get(key)

    def per_slot(array: np.ndarray, fill: float) -> np.ndarray:
        result = np.full((2 * n, slots, 4), fill, dtype)
        result[:n] = array[:, None, :]
        return result

    common = {"precision": dtype.name, "activation_function": network.fitting[0][0].activation}
    descriptor = {
        "@class": "Descriptor",
        "type": "se_e2_a",
        "@version": 2,
        "rcut": float(network.cutoff),
        "rcut_smth": float(network.cutoff_smooth),
        "sel": [int(x) for x in network.sel] * 2,
        "neuron": widths,
        "axis_neuron": int(network.axis),
        "resnet_dt": any(x.step is not None for net in network.embedding.values() for x in net),
        "set_davg_zero": False,
        "activation_function": next(iter(network.embedding.values()))[0].activation,
        "precision": dtype.name,
        "embeddings": {
            "@class": "NetworkCollection",
            "@version": 1,
            "ndim": 2,
            "ntypes": 2 * n,
            "network_type": "embedding_network",
            "networks": nets(pair, 4 * n * n, "EmbeddingNetwork", 1, widths[:-1], network.width),
        },
        "env_mat": {
            "rcut": float(network.cutoff),
            "rcut_smth": float(network.cutoff_smooth),
            "protection": float(network.protection),
            "use_exp_switch": False,
        },
        "exclude_types": apart,
        "env_protection": float(network.protection),
        "@variables": {"davg": per_slot(network.mean, 0.0), "dstd": per_slot(network.std, 1.0)},
        "type_map": names,
        "trainable": True,
        "type_one_side": False,
        "spin": None,
    }
    fitting = {
        "@class": "Fitting",
        "@version": 4,
        "type": "ener",
        "var_name": "energy",
        "ntypes": 2 * n,
        "dim_descrpt": net_in,
        "dim_out": 1,
        "neuron": hidden,
        "resnet_dt": any(x.step is not None for net in network.fitting for x in net),
        "numb_fparam": 0,
        "numb_aparam": 0,
        "dim_case_embd": 0,
        "default_fparam": None,
        **common,
        "mixed_types": False,
        "nets": {
            "@class": "NetworkCollection",
            "@version": 1,
            "ndim": 1,
            "ntypes": 2 * n,
            "network_type": "fitting_network",
            "networks": nets(
                lambda k: network.fitting[k] if k < n else None, 2 * n, "FittingNetwork", net_in, hidden, 1
            ),
        },
        "rcond": None,
        "exclude_types": silenced,
        "@variables": {
            "bias_atom_e": np.zeros((2 * n, 1)),
            **dict.fromkeys(("case_embd", "fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")),
        },
        "type_map": names,
        "tot_ener_zero": False,
        "trainable": [True] * (len(hidden) + 1),
        "layer_name": None,
        "use_aparam_as_mask": False,
        "spin": None,
        "atom_ener": [],
    }
    bias = np.zeros((1, 2 * n, 1))
    bias[0, :n, 0] = model.shift
    spin = {"use_spin": [bool(x) for x in model.magnetic], "virtual_scale": [float(x) for x in model.virtual_scale]}
    backbone = {
        "@class": "Model",
        "@version": 2,
        "type": "standard",
        "type_map": names,
        "atom_exclude_types": silenced,
        "pair_exclude_types": apart,
        "rcond": None,
        "preset_out_bias": None,
        "descriptor": descriptor,
        "fitting": fitting,
        "@variables": {"out_bias": bias, "out_std": np.ones((1, 2 * n, 1))},
    }
    return {
        "software": "spinmd",
        "version": __version__,
        "backend": "PyTorch",
        "model": {"type": "spin_ener", "backbone_model": backbone, "spin": spin},
        "model_def_script": _definition(model, spin, descriptor, fitting),
        "@variables": {},
    }


def _definition(
    model: DeepSpinModel, spin: dict[str, Any], descriptor: dict[str, Any], fitting: dict[str, Any]
) -> dict[str, Any]:
    """The architecture as the input file of a DeePMD-kit training has it, without the doubling of types."""
    n = len(model.elements)
    own = ("type", "rcut", "rcut_smth", "neuron", "axis_neuron", "resnet_dt", "activation_function", "precision")
    fit = ("type", "neuron", "resnet_dt", "activation_function", "precision")
    between = [pair for pair in descriptor["exclude_types"] if max(pair) < n]
    return {
        "type": "standard",
        "type_map": list(model.elements),
        "descriptor": {
            **{key: descriptor[key] for key in own},
            "sel": descriptor["sel"][:n],
            "type_one_side": False,
            "env_protection": descriptor["env_protection"],
        },
        "fitting_net": {key: fitting[key] for key in fit},
        "spin": {**spin, "scheme": "deepspin"},
        "pair_exclude_types": between,
    }


def _steps(n_in: int, inner: list[int], n_out: int) -> list[tuple[int, int]]:
    sizes = [n_in, *inner, n_out]
    return list(zip(sizes[:-1], sizes[1:], strict=True))


def _tree_net(net: Net, kind: str, dtype: np.dtype) -> dict[str, Any]:
    widths = [layer.weight.shape[1] for layer in net]
    common = {
        "@class": kind,
        "@version": 2 if kind == "EmbeddingNetwork" else 1,
        "in_dim": net[0].weight.shape[0],
        "activation_function": net[0].activation,
        "resnet_dt": any(layer.step is not None for layer in net),
        "precision": dtype.name,
        "layers": [_tree_layer(layer, dtype) for layer in net],
    }
    if kind == "EmbeddingNetwork":
        return {**common, "neuron": widths, "bias": True}
    return {**common, "neuron": widths[:-1], "out_dim": widths[-1], "bias_out": net[-1].bias is not None}


def _tree_layer(layer: Layer, dtype: np.dtype) -> dict[str, Any]:
    def cast(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array.astype(dtype)

    return {
        "@class": "Layer",
        "@version": 2,
        "bias": layer.bias is not None,
        "use_timestep": layer.step is not None,
        "activation_function": layer.activation,
        "resnet": bool(layer.resnet),
        "precision": dtype.name,
        "trainable": True,
        "@variables": {"w": cast(layer.weight), "b": cast(layer.bias), "idt": cast(layer.step)},
    }
