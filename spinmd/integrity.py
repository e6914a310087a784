"""Whether what is read from an HDF5 file is what was written.

Three nets, since HDF5 alone has none: the format that ``spinmd.segments`` writes has checksums in headers and indices, and
stored rows have their own; ``sign`` puts a digest of the whole file behind its end, which ``verify`` compares before HDF5
sees a byte (a damaged file can make HDF5 hang); a checkpoint's arrays are sealed with a digest, however large they are.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spinmd.errors import InputError

# what h5py, JSON and the shapes of arrays make of a damaged file
DAMAGE = (KeyError, ValueError, TypeError, OSError, RuntimeError, AttributeError, OverflowError, MemoryError)
SEAL = "sha256"
MARK = (
    b"\nspinmd sha256 "  # then 64 hexadecimal digits and the end of the line; HDF5 ignores what is behind its own end
)
SIGNED_BYTES = 16 * 1024**2  # a larger file is not read as a whole before it is opened, and not signed


def signature(content: bytes) -> bytes:
    """What stands behind the end of a file with this content."""
    return MARK + hashlib.sha256(content).hexdigest().encode() + b"\n"


def verify(path: str | Path) -> None:
    """Raise OSError if a signed file is not what was written. Large ones and those without signature pass."""
    length = len(signature(b""))
    if os.path.getsize(path) > SIGNED_BYTES + length:
        return
    content = Path(path).read_bytes()
    end = content[-length:]
    if end.startswith(MARK):
        if end != signature(content[:-length]):
            raise OSError("its checksum is wrong")
    elif MARK[:7] in end or any(content.endswith(MARK[:k]) for k in range(3, len(MARK))):
        raise OSError("it was cut short, or something follows its end")


def seal(group: h5py.Group) -> None:
    """Write the digest of everything in a group as an attribute of it."""
    group.attrs[SEAL] = np.bytes_(_digest(group))


def check_seal(group: h5py.Group) -> None:
    """Raise ValueError if the group is not what it was when it was sealed."""
    if _plain(group.attrs[SEAL]) != _digest(group).encode():
        raise ValueError("its checksum is wrong")


def _digest(group: h5py.Group) -> str:
    """SHA-256 over names, attributes, types, shapes and values of everything in ``group``."""
    result = hashlib.sha256()

    def visit(name: str, item: Any) -> None:
        for key in sorted(item.attrs):
            if name or key != SEAL:
                result.update(repr((name, key, _plain(item.attrs[key]))).encode())
        if isinstance(item, h5py.Dataset):
            values = item[()]
            result.update(repr((name, item.dtype.str, item.shape)).encode())
            result.update(values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes())

    visit("", group)
    group.visititems(visit)
    return result.hexdigest()


def _plain(value: Any) -> Any:
    """An attribute as plain Python, the same before and after it went through the file."""
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def damage_explained(place: str, what: str = "the file") -> Iterator[None]:
    """What h5py raises for a damaged file becomes an InputError at ``place``."""
    try:
        yield
    except DAMAGE as error:
        reason = (str(error).strip("'\" ") or type(error).__name__).splitlines()[0]
        raise InputError(f"{what} is damaged and cannot be read ({reason})", place) from None


def check_table(group: h5py.Group, place: str) -> None:
    """InputError unless every column of the thermo table is one number for each row."""
    shapes = {name: getattr(item, "shape", None) for name, item in group.items()}
    rows = shapes.get("step")
    for name, item in group.items():
        if rows is None or len(rows) != 1 or shapes[name] != rows or item.dtype.kind not in "iuf":
            raise InputError(f"its thermo table is damaged: the column {name} does not fit the others", place)
