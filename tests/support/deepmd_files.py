"""Files as DeePMD-kit writes them, made from a model of ours with PyTorch alone: for machines without DeePMD-kit.

The attributes that DeePMD's modules keep in a frozen model are rebuilt here under the same names. That the real package writes
such files is tested by tests/interop.
"""

import json
import warnings

import numpy as np
import torch
from support.deepspin_models import make_random_model, random_net

from spinmd.interop.deepmd_writer import tree_from_model


class Holder(torch.nn.Module):
    """A module with attributes and nothing else."""

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)


def tensor(array):
    return None if array is None else torch.from_numpy(np.array(array))


def mask_of_pairs(pairs, types):
    table = np.ones((types + 1, types + 1), np.int32)
    for a, b in pairs:
        table[a, b] = table[b, a] = 0
    return Holder(type_mask=tensor(table.reshape(-1)))


def mask_of_types(silenced, types):
    table = np.ones(types, np.int32)
    table[silenced] = 0
    return Holder(type_mask=tensor(table))


def net_modules(networks):
    def layer(tree):
        values = tree["@variables"]
        return Holder(
            matrix=tensor(values["w"]),
            bias=tensor(values["b"]),
            idt=tensor(values["idt"]),
            activate_name=tree["activation_function"],
            resnet=tree["resnet"],
        )

    nets = [Holder(layers=torch.nn.ModuleList([layer(x) for x in net["layers"]])) for net in networks]
    return Holder(networks=torch.nn.ModuleList(nets), ndim=1)


def modules(model) -> Holder:
    """The module tree of a frozen SpinEnergyModel."""
    tree = tree_from_model(model, "test")
    backbone, spin = tree["model"]["backbone_model"], tree["model"]["spin"]
    descriptor, fitting = backbone["descriptor"], backbone["fitting"]
    types = len(backbone["type_map"])
    sea = Holder(
        **{key: descriptor[key] for key in ("rcut", "rcut_smth", "env_protection", "sel", "type_one_side")},
        axis_neuron=descriptor["axis_neuron"],
        mean=tensor(descriptor["@variables"]["davg"]),
        stddev=tensor(descriptor["@variables"]["dstd"]),
        compress=False,
        emask=mask_of_pairs(descriptor["exclude_types"], types),
        filter_layers=net_modules(descriptor["embeddings"]["networks"]),
    )
    fitting_net = Holder(
        var_name="energy",
        numb_fparam=0,
        numb_aparam=0,
        dim_case_embd=0,
        mixed_types=False,
        remove_vaccum_contribution=None,
        bias_atom_e=tensor(fitting["@variables"]["bias_atom_e"]),
        filter_layers=net_modules(fitting["nets"]["networks"]),
    )
    atomic = Holder(
        type_map=backbone["type_map"],
        out_bias=tensor(backbone["@variables"]["out_bias"]),
        pair_excl=mask_of_pairs(backbone["pair_exclude_types"], types),
        atom_excl=mask_of_types(backbone["atom_exclude_types"], types),
        descriptor=Holder(sea=sea, compress=False),
        fitting_net=fitting_net,
    )
    scale = np.array(spin["virtual_scale"]) * np.array(spin["use_spin"])
    return Holder(
        virtual_scale_mask=tensor(scale),
        spin_mask=tensor(np.array(spin["use_spin"]).astype(np.int64)),
        backbone_model=Holder(
            atomic_model=atomic,
            min_nbor_dist=torch.tensor(2.1, dtype=torch.float64),
            model_def_script=json.dumps(tree["model_def_script"]),
        ),
    )


def write_frozen(model, path, edit=None):
    """A TorchScript archive. ``edit`` changes the modules before they are compiled."""
    root = modules(model)
    if edit is not None:
        edit(root)
    with warnings.catch_warnings():  # PyTorch would rather have other formats; DeePMD-kit has this one
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(root), str(path))


def write_checkpoint(model, path, edit=None):
    """A training checkpoint. The model's layers must be such that the input file's table describes them."""
    tree = tree_from_model(model, "test")
    params = tree["model_def_script"]
    root = modules(model)
    state = {f"model.Default.{key}": value for key, value in root.state_dict().items() if "_mask" not in key}
    state["_extra_state"] = {"model_params": params, "train_infos": {"lr": 1.0e-3, "step": 7}}
    if edit is not None:
        edit(params)
    torch.save({"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1.0e-3}]}}, path)


# --- models to write ---


def tiny(**changes):
    settings = {
        "elements": ("Fe", "O"),
        "magnetic": (True, False),
        "neuron": (3, 6),
        "axis": 2,
        "fitting": (5, 5),
        "sel": 9,
    }
    model = make_random_model(**{**settings, **changes})
    random = np.random.default_rng(3)
    n = len(model.elements)
    activation = changes.get("activation", "tanh")
    widths = (1, *changes.get("neuron", (3, 6)))
    model.network.silent = {
        (n + t, c): random_net(random, widths, activation=activation)
        for t in range(n)
        if not model.magnetic[t]
        for c in range(n)
    }
    return model


def exclude(model, one, other):
    """Let two elements not see each other, as pair_exclude_types does."""
    for pair in {(one, other), (other, one)}:
        model.network.silent[pair] = model.network.embedding.pop(pair)
    return model


def arrays(model):
    """Everything that evaluates, by name."""
    network = model.network
    found = {"mean": network.mean, "std": network.std, "sel": network.sel}
    found |= {"shift": model.shift, "virtual_scale": model.virtual_scale, "magnetic": model.magnetic}
    nets = {("embedding", *key): net for key, net in network.embedding.items()}
    nets |= {("silent", *key): net for key, net in network.silent.items()}
    nets |= {("fitting", c): net for c, net in enumerate(network.fitting)}
    for name, net in nets.items():
        for k, layer in enumerate(net):
            for part in ("weight", "bias", "step"):
                found[(*name, k, part)] = getattr(layer, part)
            found[(*name, k, "kind")] = (layer.activation, bool(layer.resnet))
    for name in ("cutoff", "cutoff_smooth", "protection", "axis", "precision"):
        found[name] = getattr(network, name)
    found["elements"] = model.elements
    return found


def assert_same(one, other):
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.shape == other[key].shape, key
            assert (value == other[key]).all(), key
        else:
            assert value == other[key], key
