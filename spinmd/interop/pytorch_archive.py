"""Tensors and attributes out of PyTorch's zip files (``torch.save``, TorchScript), without PyTorch and without running code.

A pickle may name any function for the reader to call. Here only the handful of names that PyTorch writes for tensors are
known, each stands for something of this module that builds plain data, and every other name is refused before anything is made
of it. Objects of TorchScript classes become ``Node``s, which hold attributes and have no behaviour. The program text in
the archive is never looked at.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spinmd.errors import InputError

STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
MAX_PICKLE_BYTES = 256 * 1024**2  # a model's structure is well below a megabyte


class Node:
    """An object of the archive, as its attributes."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("an object whose state is not a dict")
        self.attributes = state

    def __contains__(self, name: str) -> bool:
        return name in self.attributes

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


class _Call:
    """A function of PyTorch, replaced by one of ours. It has no attributes that a pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function with a state")


class _Reader(pickle.Unpickler):
    """The restricted unpickler of one archive."""

    def __init__(self, text: bytes, storage: Callable[[str, str, int], np.ndarray]):
        super().__init__(io.BytesIO(text))
        self._storage = storage
        # classes of this load alone: whatever a pickle does to them ends with it
        self._node = type("Node", (Node,), {})
        self._mapping = type("Mapping", (dict,), {})
        self._calls = {
            ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild_tensor),
            ("torch._utils", "_rebuild_parameter"): _Call(lambda data, *rest: data),
            ("torch.jit._pickle", "restore_type_tag"): _Call(lambda value, tag: value),
            **{
                ("torch.jit._pickle", name): _Call(lambda value: value)
                for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
            },
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._calls:
            return self._calls[(module, name)]
        if (module, name) == ("collections", "OrderedDict"):
            return self._mapping
        if module == "torch" and name in STORAGES:
            return name
        if module == "__torch__" or module.startswith("__torch__."):
            return self._node
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, key: Any) -> np.ndarray:
        if not (isinstance(key, tuple) and len(key) == 5 and key[0] == "storage"):
            raise pickle.UnpicklingError("a reference to something that is not a storage")
        _, kind, name, _, size = key
        if kind not in STORAGES or not isinstance(name, str) or not isinstance(size, int):
            raise pickle.UnpicklingError("a storage of unknown type")
        return self._storage(kind, name, size)


class _Refused(Exception):
    """A name in the pickle that is not on the list."""


def _rebuild_tensor(storage: Any, offset: int, size: tuple, stride: tuple, *rest) -> np.ndarray:
    """A copy of the part of a storage that a tensor is, C-contiguous."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without storage")
    numbers = (offset, *size, *stride)
    if not all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in numbers):
        raise pickle.UnpicklingError("a tensor with a shape that is not made of numbers")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= storage.size:
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    if int(np.prod(size, dtype=object)) > storage.size:
        raise pickle.UnpicklingError("a tensor larger than its storage")
    bytes_ = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, bytes_).copy()


def read_archive(path: str | Path) -> Any:
    """What the archive's ``data.pkl`` holds: dicts, lists, numbers, strings, arrays (numpy) and Nodes.

    Raises InputError for a damaged archive and for one that names anything else than tensors, containers and
    TorchScript classes (it could run code elsewhere; here it does not get that far).
    """
    place = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, place)
    except InputError:
        raise
    except _Refused as error:
        raise InputError(
            f"the file names {error}, which a model does not need and which could run code; it was not loaded. "
            "Get the model from a source that you trust",
            place,
        ) from None
    except (zipfile.BadZipFile, EOFError, OSError, RecursionError, MemoryError) as error:
        raise InputError(f"the file is damaged ({error}); make or copy it again", place) from None
    except Exception as error:  # a pickle that is not one fails in any way it likes
        raise InputError(f"the file is damaged or not PyTorch's ({error}); make or copy it again", place) from None


def _read(archive: zipfile.ZipFile, place: str) -> Any:
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise InputError(
            "this zip file was not written by PyTorch (it has no data.pkl); name a .pth or .pt file", place
        )
    top = names[0].removesuffix("data.pkl")
    entries = {info.filename: info for info in archive.infolist()}
    if top + "byteorder" in entries and archive.read(top + "byteorder").strip() != b"little":
        raise InputError("the numbers are in big-endian order; save the model on a little-endian machine", place)
    if entries[names[0]].file_size > MAX_PICKLE_BYTES:
        raise InputError("the structure in data.pkl is far larger than that of any model; make the file again", place)
    if any(x.compress_type != zipfile.ZIP_STORED for name, x in entries.items() if name.startswith(top + "data")):
        raise InputError("the tensors are compressed, which PyTorch never does; make the file again", place)
    storages: dict[tuple[str, str], np.ndarray] = {}

    def storage(kind: str, name: str, size: int) -> np.ndarray:
        if (kind, name) not in storages:
            entry = entries.get(f"{top}data/{name}")
            dtype = np.dtype(STORAGES[kind])
            if entry is None or size < 0 or entry.file_size < size * dtype.itemsize:
                raise zipfile.BadZipFile(f"tensor data {name} is missing or too short")
            storages[(kind, name)] = np.frombuffer(archive.read(entry), dtype, count=size)
        return storages[(kind, name)]

    return _Reader(archive.read(names[0]), storage).load()
