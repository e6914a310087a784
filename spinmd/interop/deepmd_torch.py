"""DeePMD-kit's frozen models (``.pth``, TorchScript) and training checkpoints (``.pt``) to parts.

Both are PyTorch archives; ``pytorch_archive`` reads them without PyTorch, and no code in them is looked at or run.
"""

from typing import Any

import numpy as np

from spinmd.interop.deepmd_parts import Parts, activation, damaged, unsupported, weights
from spinmd.interop.pytorch_archive import Node
from spinmd.potentials.deepspin.model import Layer, Net

PLAIN = (bool, int, float, str, type(None))


class Attributes:
    """A Node that knows its path and complains in whole sentences."""

    def __init__(self, node: Any, path: str, place: str):
        if not isinstance(node, Node):
            damaged(f"{path or 'the model'} is missing", place)
        self.node, self.path, self.place = node, path, place

    def get(self, name: str, kind: type | tuple[type, ...] | None = None) -> Any:
        if name not in self.node:
            damaged(f"{self.path}.{name} is missing", self.place)
        value = self.node[name]
        if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            damaged(f"{self.path}.{name} is not what it should be", self.place)
        return value

    def node_of(self, name: str) -> "Attributes":
        return Attributes(self.get(name), f"{self.path}.{name}".lstrip("."), self.place)

    def numbered(self) -> list["Attributes"]:
        """The members of a ModuleList: 0, 1, 2, ..."""
        result = []
        while str(len(result)) in self.node:
            result.append(self.node_of(str(len(result))))
        return result

    def array(self, name: str) -> np.ndarray:
        array = weights(self.get(name, np.ndarray), f"{self.path}.{name}", self.place)
        assert array is not None
        return array


def parts_from_frozen(root: Node, place: str) -> tuple[Parts, str]:
    """Parts and precision of a frozen spin model. The attributes of the modules hold the whole architecture."""
    top = Attributes(root, "", place)
    if "backbone_model" not in root or "virtual_scale_mask" not in root:
        unsupported("no spins" if "atomic_model" in root else "an unknown structure", place)
    atomic = top.node_of("backbone_model").node_of("atomic_model")
    if "descriptor" not in atomic.node or "fitting_net" not in atomic.node:
        unsupported("a backbone that is not one descriptor and one fitting net (ZBL, linear)", place)
    descriptor = atomic.node_of("descriptor")
    if "sea" not in descriptor.node:
        unsupported("another descriptor than se_e2_a", place)
    sea, fitting = descriptor.node_of("sea"), atomic.node_of("fitting_net")
    if sea.node.get("compress") or descriptor.node.get("compress"):
        unsupported("compressed embedding nets; convert the model from before `dp compress`", place)
    _check_fitting({key: fitting.node.get(key) for key in fitting.node.attributes}, place)
    mask = top.get("spin_mask", np.ndarray)
    sides = [_nets(x.node_of("filter_layers").node_of("networks")) for x in (sea, fitting)]
    minimum = top.node_of("backbone_model").node.get("min_nbor_dist")
    parts = Parts(
        type_map=atomic.get("type_map", list),
        use_spin=[bool(x) for x in mask.reshape(-1)],
        virtual_scale=top.array("virtual_scale_mask").reshape(-1),
        cutoff=float(sea.get("rcut", (int, float))),
        cutoff_smooth=float(sea.get("rcut_smth", (int, float))),
        protection=float(sea.get("env_protection", (int, float))),
        sel=_integers(sea.get("sel", list), "sel", place),
        axis=sea.get("axis_neuron", int),
        one_side=sea.get("type_one_side", bool),
        mean=sea.array("mean"),
        std=sea.array("stddev"),
        embedding=sides[0],
        fitting=sides[1],
        out_bias=atomic.array("out_bias").reshape(-1),
        fit_bias=fitting.array("bias_atom_e").reshape(-1),
        excluded=_masked_pairs(atomic, "pair_excl", 2 * mask.size),
        masked=_masked_pairs(sea, "emask", 2 * mask.size),
        silenced=_masked_types(atomic, "atom_excl", 2 * mask.size),
        provenance={"program": "deepmd-kit", "definition": _definition(top), **_minimum(minimum)},
    )
    single = all(x.get("matrix").dtype == np.float32 for side in (sea, fitting) for x in _layers(side))
    return parts, "float32" if single else "float64"


def _layers(side: Attributes) -> list[Attributes]:
    nets = side.node_of("filter_layers").node_of("networks").numbered()
    return [layer for net in nets for layer in net.node_of("layers").numbered()]


def _nets(networks: Attributes) -> list[Net]:
    return [[_layer(layer) for layer in net.node_of("layers").numbered()] for net in networks.numbered()]


def _layer(layer: Attributes) -> Layer:
    return Layer(
        layer.array("matrix"),
        weights(layer.node.get("bias"), f"{layer.path}.bias", layer.place),
        weights(layer.node.get("idt"), f"{layer.path}.idt", layer.place),
        activation(layer.node.get("activate_name"), layer.place),
        layer.get("resnet", bool),
    )


def _masked_pairs(owner: Attributes, name: str, types: int) -> list[list[int]]:
    """Pairs of types with a 0 in a PairExcludeMask: its (types + 1)² table; the last row and column are empty slots.

    The lists of pairs themselves are not always in the file (TorchScript drops those that mix lists and tuples).
    """
    if owner.node.get(name) is None:
        return []
    table = owner.node_of(name).get("type_mask", np.ndarray)
    if table.size != (types + 1) ** 2:
        damaged(f"{owner.path}.{name}.type_mask has {table.size} entries for {types} types", owner.place)
    return np.argwhere(table.reshape(types + 1, types + 1)[:types, :types] == 0).tolist()


def _masked_types(owner: Attributes, name: str, types: int) -> list[int]:
    """Types with a 0 in an AtomExcludeMask."""
    if owner.node.get(name) is None:
        return []
    table = owner.node_of(name).get("type_mask", np.ndarray)
    if table.size != types:
        damaged(f"{owner.path}.{name}.type_mask has {table.size} entries for {types} types", owner.place)
    return np.flatnonzero(table.reshape(-1) == 0).tolist()


def _definition(top: Attributes) -> str | None:
    for node in (top.node, top.get("backbone_model")):
        text = node.get("model_def_script") if isinstance(node, Node) else None
        if isinstance(text, str) and text:
            return text
    return None


def _minimum(value: Any) -> dict[str, float]:
    """The shortest distance in DeePMD's training data, Å; it is -1 or absent where nobody asked for it."""
    if isinstance(value, np.ndarray) and value.size == 1 and float(value.reshape(-1)[0]) > 0.0:
        return {"min_distance": float(value.reshape(-1)[0])}
    return {}


def _integers(value: Any, name: str, place: str) -> list[int]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(x, int) and not isinstance(x, bool) for x in value):
        damaged(f"{name} is not a list of integers", place)
    return list(value)


def _pairs(value: Any, place: str) -> list[list[int]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(x, (list, tuple)) and len(x) == 2 for x in value):
        damaged("the excluded pairs are not pairs of types", place)
    return [_integers(x, "an excluded pair", place) for x in value]


def _check_fitting(settings: dict[str, Any], place: str) -> None:
    """Refuse fitting nets with more inputs than the descriptor. ``settings``: attributes, or the input file's table."""
    kind = settings.get("type", "ener")
    if kind != "ener" or settings.get("var_name", "energy") != "energy":
        unsupported(f"a fitting net of type {kind!r}", place)
    for key, what in (
        ("numb_fparam", "frame parameters (numb_fparam)"),
        ("numb_aparam", "atomic parameters (numb_aparam)"),
        ("dim_case_embd", "a case embedding (dim_case_embd)"),
        ("mixed_types", "one fitting net for all types (mixed_types)"),
        ("atom_ener", "energies of atoms in vacuum (atom_ener)"),
        ("remove_vaccum_contribution", "energies of atoms in vacuum (atom_ener)"),
    ):
        if settings.get(key):
            unsupported(what, place)


# ------------------------------------------------------------------ training checkpoints


def parts_from_checkpoint(archive: dict[str, Any], place: str) -> tuple[Parts, str]:
    """Parts and precision of a training checkpoint: weights by name, and the input file's ``model`` table."""
    state = archive.get("model", archive)
    extra = state.get("_extra_state") if isinstance(state, dict) else None
    params = extra.get("model_params") if isinstance(extra, dict) else None
    if not isinstance(params, dict):
        unsupported("no description of itself (not a training checkpoint of DeePMD-kit's PyTorch backend)", place)
    if "model_dict" in params:
        unsupported("several branches (multi-task); freeze one: dp --pt freeze --head NAME", place)
    if not isinstance(params.get("spin"), dict):
        unsupported("no spins", place)
    spin, descriptor, fit = params["spin"], params.get("descriptor", {}), params.get("fitting_net", {})
    if spin.get("scheme", "deepspin") != "deepspin":
        unsupported(f"the spin scheme {spin['scheme']!r}", place)
    if params.get("type", "standard") != "standard" or "use_srtab" in params:
        unsupported(f"a backbone of type {params.get('type')!r} or a pair table (use_srtab)", place)
    if descriptor.get("type") not in ("se_e2_a", "se_a"):
        unsupported(f"the descriptor {descriptor.get('type')!r}", place)
    _check_fitting(fit, place)
    prefix = "model.Default.backbone_model.atomic_model."
    own = {key.removeprefix(prefix): x for key, x in state.items() if isinstance(key, str) and key.startswith(prefix)}
    use_spin = _use_spin(spin.get("use_spin"), params.get("type_map", []), place)
    n = len(use_spin)
    sel = _integers(descriptor.get("sel"), "sel", place)
    sel = sel + sel if len(sel) == n else sel
    placeholders = [[n + t, other] for t in range(n) if not use_spin[t] for other in range(2 * n)]
    try:
        parts = Parts(
            type_map=list(params["type_map"]),
            use_spin=use_spin,
            virtual_scale=spin["virtual_scale"],
            cutoff=float(descriptor["rcut"]),
            cutoff_smooth=float(descriptor["rcut_smth"]),
            protection=float(descriptor.get("env_protection", 0.0)) or 0.01,
            sel=sel,
            axis=int(descriptor["axis_neuron"]),
            one_side=bool(descriptor.get("type_one_side", False)),
            mean=_tensor(own, "descriptor.sea.mean", place),
            std=_tensor(own, "descriptor.sea.stddev", place),
            embedding=_state_nets(own, "descriptor.sea", descriptor, "none", place),
            fitting=_state_nets(own, "fitting_net", fit, "last", place),
            out_bias=_tensor(own, "out_bias", place).reshape(-1),
            fit_bias=_tensor(own, "fitting_net.bias_atom_e", place).reshape(-1),
            excluded=_pairs(params.get("pair_exclude_types"), place) + placeholders,
            masked=placeholders,  # a spin model's own exclude_types are replaced by DeePMD
            silenced=_integers(params.get("atom_exclude_types") or [], "atom_exclude_types", place),
            provenance={
                "program": "deepmd-kit",
                "definition": _plain(params),
                "training": _plain(extra.get("train_infos", {})),
                **_minimum(state.get("model.Default.backbone_model.min_nbor_dist")),
            },
        )
    except KeyError as error:
        damaged(f"{error.args[0]} is missing in the model's description", place)
    except (TypeError, ValueError) as error:
        damaged(f"the model's description cannot be read ({error})", place)
    single = all(x.dtype == np.float32 for key, x in own.items() if key.endswith(".matrix"))
    return parts, "float32" if single else "float64"


def _use_spin(value: Any, type_map: list, place: str) -> list[bool]:
    """One flag per element; DeePMD also takes the indices or the names of the magnetic ones."""
    if not isinstance(value, list):
        damaged("spin.use_spin is missing in the model's description", place)
    if value and all(isinstance(x, bool) for x in value):
        return value
    names = [type_map[x] if isinstance(x, int) and 0 <= x < len(type_map) else x for x in value]
    if any(name not in type_map for name in names):
        damaged(f"spin.use_spin is {value!r}", place)
    return [name in names for name in type_map]


def _tensor(own: dict[str, Any], name: str, place: str) -> np.ndarray:
    array = own.get(name)
    if not isinstance(array, np.ndarray):
        damaged(f"{name} is missing", place)
    result = weights(array, name, place)
    assert result is not None
    return result


def _state_nets(own: dict[str, Any], part: str, settings: dict[str, Any], linear: str, place: str) -> list[Net]:
    """The nets under ``part``; ``linear`` = "last": the last layer of each is linear and has no shortcut."""
    name = activation(settings.get("activation_function", "tanh"), place)
    nets: list[Net] = []
    while f"{part}.filter_layers.networks.{len(nets)}.layers.0.matrix" in own:
        net: Net = []
        stem = f"{part}.filter_layers.networks.{len(nets)}.layers"
        while f"{stem}.{len(net)}.matrix" in own:
            layer = f"{stem}.{len(net)}"
            bias, step = (weights(own.get(f"{layer}.{x}"), f"{layer}.{x}", place) for x in ("bias", "idt"))
            net.append(Layer(_tensor(own, f"{layer}.matrix", place), bias, step, name, True))
        if linear == "last":
            net[-1].activation, net[-1].resnet = "linear", False
        nets.append(net)
    return nets


def _plain(value: Any) -> Any:
    """Plain data of plain data; anything else becomes its name."""
    if isinstance(value, dict):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    return value if isinstance(value, PLAIN) else type(value).__name__
