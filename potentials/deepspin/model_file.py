"""DeepSPIN models as HDF5 files. Reading one never runs code: there are only arrays and one JSON text in it.

    /                attributes: format, format_version, sha256
    /description     JSON: elements, architecture, units, provenance; everything that is not an array
    /arrays/...      weights and statistics, e.g. arrays/network/embedding/2-0/1/weight

``sha256`` is taken over the description and all arrays, so that a damaged file is noticed and not evaluated.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.deepspin.model import DeepSpinModel, Layer, Net, Network, SeenRange
from spinmd.potentials.deepspin.model_check import check_model
from spinmd.segments import open_file, written_whole

FORMAT = "spinmd DeepSPIN model"
FORMAT_VERSION = 1
UNITS = {"length": "Angstrom", "energy": "eV", "spin": "Bohr magneton", "virtual_scale": "Angstrom / Bohr magneton"}
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def write_model(model: DeepSpinModel, path: str | Path) -> None:
    """Write ``model`` to an HDF5 file, which appears whole or not at all (temporary file, fsync, rename).

    Raises InputError for a model that is not consistent, or a path that cannot be written.
    """
    path = Path(path)
    check_model(model, str(path))
    description, arrays = _pack(model)
    try:
        text = json.dumps(description, indent=1, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"provenance and settings may only hold strings, numbers, lists and dicts: {error}", str(path)
        ) from None
    if path.is_dir():
        raise InputError("this is a folder; name a file", str(path))
    try:
        with written_whole(path) as file:
            file.attrs["format"] = FORMAT
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["sha256"] = _digest(text, arrays)
            file.create_dataset("description", data=text, dtype=h5py.string_dtype())
            file.create_group("arrays")
            for key, array in arrays.items():
                file.create_dataset(f"arrays/{key}", data=array, track_times=False)
    except OSError as error:
        raise InputError(f"cannot write the model: {error.strerror or error}", str(path)) from None


def read_model(path: str | Path) -> DeepSpinModel:
    """The model in an HDF5 file that ``write_model`` wrote, checked to the last array.

    Raises InputError for a missing, damaged, newer or foreign file; a file of DeePMD-kit is to be converted first.
    """
    path = Path(path)
    place = str(path)
    head = first_bytes(path)
    if not head.startswith(HDF5_SIGNATURE):
        raise InputError(_foreign(head, path), place)
    try:
        with open_file(path) as file:
            text, arrays = _load(file, place)
    except InputError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError and more for damaged files
        raise InputError(f"the file is damaged ({error}); make or copy it again", place) from None
    model = _unpack(text, arrays, place)
    check_model(model, place)
    return model


def first_bytes(path: Path) -> bytes:
    """The first 4096 bytes, by which a file's kind is told; InputError for a folder or what cannot be read."""
    place = str(path)
    if path.is_dir():
        raise InputError("this is a folder; name the model file in it", place)
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except FileNotFoundError:
        raise InputError("there is no such file", place) from None
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", place) from None


def is_model_file(path: str | Path) -> bool:
    """Whether an existing file is a spinmd model by content: HDF5 whose attribute ``format`` says so."""
    try:
        with open_file(path) as file:
            return _text(file.attrs.get("format")) == FORMAT
    except (OSError, KeyError, RuntimeError):  # HDF5's words for damage
        return False


def _convert(path: Path) -> str:
    return f"convert it first: spinmd convert {path.name} {path.stem}.h5"


def _foreign(head: bytes, path: Path) -> str:
    """What to say of a file that is not HDF5, from its first bytes."""
    convert = _convert(path)
    if head.startswith(b"PK\x03\x04"):
        return f"this looks like a PyTorch file (.pth or .pt) of DeePMD-kit, not like a spinmd model; {convert}"
    if b"deepmd" in head or b"@class" in head or head.lstrip().startswith((b"backend:", b"model:")):
        return f"this looks like a YAML model of DeePMD-kit, not like a spinmd model; {convert}"
    return "this is not a model file of spinmd (it is not HDF5)"


def _load(file: h5py.File, place: str) -> tuple[str, dict[str, np.ndarray]]:
    """Description and arrays of an open file, after format, version and checksum have been found right."""
    name = _text(file.attrs.get("format"))
    if name != FORMAT:
        if "json" in file.attrs:
            raise InputError(f"this is a portable model (.dp) of DeePMD-kit; {_convert(Path(place))}", place)
        raise InputError("this HDF5 file holds no DeepSPIN model of spinmd; name a model file", place)
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        raise InputError(
            f"the file has format version {version}, this spinmd reads up to {FORMAT_VERSION}; use a newer spinmd",
            place,
        )
    text = _text(file["description"][()])
    arrays: dict[str, np.ndarray] = {}

    def visit(key: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[key] = item[()]

    file["arrays"].visititems(visit)
    if _digest(text, arrays) != _text(file.attrs["sha256"]):
        raise InputError("the file is damaged (its checksum is wrong); make or copy it again", place)
    return text, arrays


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over the description, and name, type, shape and bytes of each array in alphabetical order."""
    result = hashlib.sha256(text.encode("utf-8"))
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        result.update(f"\n{key} {array.dtype.str} {array.shape}\n".encode())
        result.update(array.tobytes())
    return result.hexdigest()


# ------------------------------------------------------------------ model <-> description and arrays


def _pack(model: DeepSpinModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {"virtual_scale": model.virtual_scale, "shift": model.shift}
    description: dict[str, Any] = {
        "elements": list(model.elements),
        "magnetic": [bool(flag) for flag in model.magnetic],
        "time_reversal": bool(model.time_reversal),
        "units": UNITS,
        "provenance": model.provenance,
        "network": None,
        "prior": None,
        "invariants": None,
        "seen": model.seen is not None,
    }
    if model.network is not None:
        description["network"] = _pack_network(model.network, arrays)
    if model.prior is not None:
        description["prior"] = model.prior.settings
        for name, array in model.prior.arrays.items():
            arrays[f"prior/{name}"] = np.asarray(array)
    if model.invariants is not None:
        description["invariants"] = [
            _pack_net(net, f"invariants/{c}", arrays) for c, net in enumerate(model.invariants)
        ]
    if model.seen is not None:
        arrays["seen/min_distance"] = model.seen.min_distance
        arrays["seen/spin_length"] = model.seen.spin_length
    return description, arrays


def _pack_network(network: Network, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    arrays["network/sel"] = np.asarray(network.sel, dtype=np.int64)
    arrays["network/mean"] = network.mean
    arrays["network/std"] = network.std

    def pack(net: Net, name: str) -> list[dict[str, Any]]:
        return _pack_net(net, f"network/{name}", arrays)

    return {
        "cutoff": float(network.cutoff),
        "cutoff_smooth": float(network.cutoff_smooth),
        "protection": float(network.protection),
        "axis": int(network.axis),
        "precision": network.precision,
        "embedding": {f"{t}-{c}": pack(net, f"embedding/{t}-{c}") for (t, c), net in network.embedding.items()},
        "silent": {f"{t}-{c}": pack(net, f"silent/{t}-{c}") for (t, c), net in network.silent.items()},
        "fitting": [pack(net, f"fitting/{c}") for c, net in enumerate(network.fitting)],
    }


def _pack_net(net: Net, name: str, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Description of the layers; their arrays go into ``arrays`` under ``name``/layer/part."""
    description = []
    for k, layer in enumerate(net):
        parts = {part: getattr(layer, part) for part in ("weight", "bias", "step")}
        arrays.update({f"{name}/{k}/{part}": array for part, array in parts.items() if array is not None})
        present = {part: parts[part] is not None for part in ("bias", "step")}
        description.append({"activation": layer.activation, "resnet": bool(layer.resnet), **present})
    return description


def _unpack_net(layers: list[dict[str, Any]], name: str, arrays: dict[str, np.ndarray]) -> Net:
    return [
        Layer(
            arrays[f"{name}/{k}/weight"],
            arrays[f"{name}/{k}/bias"] if layer["bias"] else None,
            arrays[f"{name}/{k}/step"] if layer["step"] else None,
            layer["activation"],
            layer["resnet"],
        )
        for k, layer in enumerate(layers)
    ]


def _unpack(text: str, arrays: dict[str, np.ndarray], place: str) -> DeepSpinModel:
    try:
        description = json.loads(text)
        prior = None
        if description["prior"] is not None:
            own = {key.removeprefix("prior/"): array for key, array in arrays.items() if key.startswith("prior/")}
            prior = _make_prior(description["prior"], own)
        seen = None
        if description["seen"]:
            seen = SeenRange(arrays["seen/min_distance"], arrays["seen/spin_length"])
        network = None
        if description["network"] is not None:
            network = _unpack_network(description["network"], arrays)
        invariants = description.get("invariants")
        if invariants is not None:
            invariants = [_unpack_net(layers, f"invariants/{c}", arrays) for c, layers in enumerate(invariants)]
        return DeepSpinModel(
            elements=tuple(description["elements"]),
            magnetic=np.array(description["magnetic"], dtype=bool),
            virtual_scale=arrays["virtual_scale"],
            shift=arrays["shift"],
            network=network,
            prior=prior,
            invariants=invariants,
            time_reversal=description["time_reversal"],
            seen=seen,
            provenance=description["provenance"],
        )
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{error.args[0]} is missing in the file; make the model again", place) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the description in the file cannot be read ({error}); make the model again", place) from None


def _make_prior(settings: dict[str, Any], arrays: dict[str, np.ndarray]):
    from spinmd.potentials.deepspin.prior import Prior  # here: a model without a prior does not need it

    return Prior(settings, arrays)


def _unpack_network(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> Network:
    def unpack(layers: list[dict[str, Any]], name: str) -> Net:
        return _unpack_net(layers, f"network/{name}", arrays)

    def unpack_pairs(kind: str) -> dict[tuple[int, int], Net]:
        result = {}
        for key, layers in description[kind].items():
            t, _, c = key.partition("-")
            result[(int(t), int(c))] = unpack(layers, f"{kind}/{key}")
        return result

    return Network(
        cutoff=description["cutoff"],
        cutoff_smooth=description["cutoff_smooth"],
        protection=description["protection"],
        sel=arrays["network/sel"],
        axis=description["axis"],
        embedding=unpack_pairs("embedding"),
        fitting=[unpack(layers, f"fitting/{c}") for c, layers in enumerate(description["fitting"])],
        mean=arrays["network/mean"],
        std=arrays["network/std"],
        precision=description["precision"],
        silent=unpack_pairs("silent"),
    )
