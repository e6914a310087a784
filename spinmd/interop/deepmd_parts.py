"""What DeePMD-kit keeps in every form of a spin model, and how a DeepSpinModel is made of it.

DeePMD counts 2n types, the virtual atoms after the real ones, the placeholders of non-magnetic elements included.
"""

from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.deepspin.model import DeepSpinModel, Layer, Net, Network
from spinmd.potentials.deepspin.model_check import check_model

# DeePMD's names of activation functions -> ours; its gelu is the tanh approximation
ACTIVATIONS = {
    "tanh": "tanh",
    "linear": "linear",
    "none": "linear",
    "sigmoid": "sigmoid",
    "softplus": "softplus",
    "gelu": "gelu",
    "gelu_tf": "gelu",
    "relu": "relu",
    "silu": "silu",
}


@dataclass
class Parts:
    """A DeePMD-kit spin model of type se_e2_a, as it stands in the file. n elements, 2n types.

    sel         (2n,);  mean, std (2n, Σ sel, 4);  out_bias, fit_bias (2n,) eV per atom
    embedding   (neighbour type · 2n + centre type), or (neighbour type) with ``one_side``
    fitting     one net per type
    excluded    pairs of types whose atoms do not see each other (``pair_exclude_types``)
    masked      pairs that the descriptor alone multiplies with zero (its ``exclude_types``)
    silenced    types whose energies are not counted (``atom_exclude_types``)
    """

    type_map: list[str]
    use_spin: list[bool]
    virtual_scale: Any
    cutoff: float
    cutoff_smooth: float
    protection: float
    sel: list[int]
    axis: int
    one_side: bool
    mean: np.ndarray
    std: np.ndarray
    embedding: list[Net]
    fitting: list[Net]
    out_bias: np.ndarray
    fit_bias: np.ndarray
    excluded: list[list[int]]
    masked: list[list[int]]
    silenced: list[int]
    provenance: dict[str, Any] = field(default_factory=dict)


def unsupported(what: str, place: str) -> NoReturn:
    raise InputError(
        f"this is a DeePMD-kit model with {what}, which spinmd cannot represent; "
        "it reads DeepSPIN energy models with descriptor se_e2_a (docs/deepmd.md)",
        place,
    )


def damaged(what: str, place: str) -> NoReturn:
    raise InputError(f"{what}; the file is damaged or from a version of DeePMD-kit that spinmd does not know", place)


def activation(name: Any, place: str) -> str:
    """Our name of one of DeePMD's activation functions (None: linear)."""
    text = "none" if name is None else str(name).lower()
    if text not in ACTIVATIONS:
        unsupported(f"activation function {name!r} (spinmd has {', '.join(sorted(set(ACTIVATIONS.values())))})", place)
    return ACTIVATIONS[text]


def weights(value: Any, name: str, place: str) -> np.ndarray | None:
    """An array of weights as float64 (exact for float32), or None."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype not in (np.float64, np.float32):
        unsupported(f"{name} in {array.dtype} (float64 and float32 are read)", place)
    return np.array(array, dtype=np.float64)


def assemble(parts: Parts, precision: str, place: str) -> DeepSpinModel:
    """The DeepSpinModel of ``parts``; InputError, at ``place``, for what has no place in it or does not fit together."""
    n = len(parts.use_spin)
    magnetic = np.array(parts.use_spin, dtype=bool)
    elements = [str(name) for name in parts.type_map]
    if len(elements) == 2 * n and all(name.endswith("_spin") for name in elements[n:]):
        elements = elements[:n]
    if n == 0 or len(elements) != n:
        damaged(f"type_map names {len(elements)} elements, use_spin {n}", place)
    if not magnetic.any():
        unsupported("no magnetic element (use_spin is false everywhere)", place)
    sel = np.array(parts.sel, dtype=np.int64)
    if sel.shape != (2 * n,) or (sel[:n] != sel[n:]).any():
        unsupported(f"sel {parts.sel} that differs between real and virtual atoms", place)
    scale = np.where(magnetic, _scale(parts.virtual_scale, magnetic, place), 0.0)
    embedding, silent = _embedding(parts, n, magnetic, place)
    if len(parts.fitting) != 2 * n:
        damaged(f"there are {len(parts.fitting)} fitting nets for {2 * n} types", place)
    real = sorted(t for t in parts.silenced if t < n)
    if real:
        unsupported(f"atom_exclude_types that leave out the energy of {elements[real[0]]}", place)
    for name, bias in (("out_bias", parts.out_bias), ("bias_atom_e", parts.fit_bias)):
        if bias.shape != (2 * n,):
            damaged(f"{name} has {bias.size} numbers for {2 * n} types", place)
    network = Network(
        cutoff=parts.cutoff,
        cutoff_smooth=parts.cutoff_smooth,
        protection=parts.protection,
        sel=sel[:n],
        axis=parts.axis,
        embedding=embedding,
        fitting=parts.fitting[:n],
        mean=_statistics(parts.mean, sel, n, "davg", place),
        std=_statistics(parts.std, sel, n, "dstd", place),
        precision=precision,
        silent=silent,
    )
    model = DeepSpinModel(
        elements=tuple(elements),
        magnetic=magnetic,
        virtual_scale=scale,
        shift=(parts.out_bias + parts.fit_bias)[:n],
        network=network,
        provenance=parts.provenance,
    )
    check_model(model, place)
    return model


def _scale(value: Any, magnetic: np.ndarray, place: str) -> np.ndarray:
    """DeePMD takes one number, one per magnetic element or one per element."""
    try:
        numbers = np.atleast_1d(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        damaged(f"virtual_scale is {value!r}", place)
    n = len(magnetic)
    if numbers.ndim != 1 or numbers.size not in (1, n, int(magnetic.sum())):
        damaged(f"virtual_scale has {numbers.size} numbers for {n} elements", place)
    if numbers.size == n:
        return numbers
    result = np.zeros(n)
    result[magnetic] = numbers
    return result


def _statistics(array: np.ndarray, sel: np.ndarray, n: int, name: str, place: str) -> np.ndarray:
    """(n, 4) of an array (2n, Σ sel, 4) that says the same for every slot, as DeePMD's statistics do."""
    if array.shape != (2 * n, int(sel.sum()), 4):
        damaged(f"{name} has shape {array.shape}, expected {(2 * n, int(sel.sum()), 4)}", place)
    if (array != array[:, :1]).any():
        unsupported(f"statistics ({name}) that differ between the neighbours of one atom", place)
    return np.ascontiguousarray(array[:n, 0])


def _embedding(parts: Parts, n: int, magnetic: np.ndarray, place: str):
    """The nets of the pairs that interact, and of those whose slots stay empty."""
    count = 2 * n if parts.one_side else 4 * n * n
    if len(parts.embedding) != count:
        damaged(f"there are {len(parts.embedding)} embedding nets for {2 * n} types, expected {count}", place)
    apart = {pair for a, b in parts.excluded for pair in ((a, b), (b, a))}
    masked = {pair for a, b in parts.masked for pair in ((a, b), (b, a))}
    embedding: dict[tuple[int, int], Net] = {}
    silent: dict[tuple[int, int], Net] = {}
    for t in range(2 * n):
        for c in range(n):
            absent = t >= n and not magnetic[t - n]
            if absent and (t, c) not in apart:
                unsupported("virtual atoms of non-magnetic elements that take part (no pair_exclude_types)", place)
            if (t, c) in masked and (t, c) not in apart:
                # such neighbours count as zero, and not as an empty slot: they would make the energy jump at the cutoff
                unsupported("exclude_types in the descriptor alone", place)
            net = parts.embedding[t if parts.one_side else t * 2 * n + c]
            (silent if (t, c) in apart else embedding)[(t, c)] = _copy(net) if parts.one_side else net
    return embedding, silent


def _copy(net: Net) -> Net:
    def copy(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array.copy()

    return [Layer(x.weight.copy(), copy(x.bias), copy(x.step), x.activation, x.resnet) for x in net]
