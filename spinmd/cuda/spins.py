"""Frozen spin couplings on the device: what ``spinmd.protocols.SpinTerm`` is on the host, stored column by column."""

from dataclasses import dataclass, fields

import numpy as np

from spinmd.cuda.arrays import DeviceArray, on_device
from spinmd.protocols import SpinTerm


@dataclass
class DeviceSpinTerm:
    """Couplings of one term at fixed positions; signs and factors as in ``SpinTerm``. Unused parts are None.

    count  (N,) int32;  atoms (room, N) int32, the k-th coupled atom of i at [k, i]
    isotropic, biquadratic (room, N) eV;  tensor (9, room, N) eV, row-major;  quadratic (N, 9) eV;  cubic (N, 2) eV with axes (3, 3)
    field  (N, 3) eV/µB
    """

    count: DeviceArray | None = None
    atoms: DeviceArray | None = None
    isotropic: DeviceArray | None = None
    tensor: DeviceArray | None = None
    biquadratic: DeviceArray | None = None
    quadratic: DeviceArray | None = None
    cubic: DeviceArray | None = None
    axes: DeviceArray | None = None
    field: DeviceArray | None = None

    @property
    def only_field(self) -> bool:
        """Whether there is nothing but ``field``."""
        return all(part is None for part in (self.isotropic, self.tensor, self.biquadratic, self.quadratic, self.cubic))

    def same_arrays(self, other: "DeviceSpinTerm") -> bool:
        """Whether both name the very same arrays, whatever these hold."""
        return all(getattr(self, part.name) is getattr(other, part.name) for part in fields(self))

    @classmethod
    def of(cls, term: SpinTerm) -> "DeviceSpinTerm":
        """The device's copy of a SpinTerm of the host: for couplings that stay what they are, on a rigid lattice."""
        parts: dict[str, DeviceArray] = {}
        if term.start is not None:
            keys = ("isotropic", "biquadratic", "tensor")
            count, atoms, values = ell(term.start, term.count, term.neighbours, *[getattr(term, key) for key in keys])
            parts |= {"count": on_device(count), "atoms": on_device(atoms)}
            for key, value in zip(keys, values, strict=True):
                if value is not None:
                    parts[key] = on_device(value)
        for key in ("quadratic", "cubic", "axes", "field"):
            value = getattr(term, key)
            if value is not None:
                parts[key] = on_device(value.reshape(len(value), 9) if key == "quadratic" else value)
        return cls(**parts)


def ell(start, count, neighbours, *values):
    """Rows of a CSR with gaps as columns: count (N,) int32, atoms (room, N) int32, and each of ``values`` (nnz,) as (room, N) or
    (nnz, m) as (m, room, N); None stays None."""
    n, room = len(count), int(count.max(initial=0))
    atoms = np.zeros((max(room, 1), n), np.int32)
    results = [None if v is None else np.zeros((*v.shape[1:], max(room, 1), n)) for v in values]
    column = np.repeat(np.arange(n), count)
    row = np.arange(len(column)) - np.repeat(np.cumsum(count) - count, count)
    entry = np.repeat(start, count) + row
    atoms[row, column] = neighbours[entry]
    for value, result in zip(values, results, strict=True):
        if value is not None:
            result[..., row, column] = value[entry].T if value.ndim > 1 else value[entry]
    return count.astype(np.int32), atoms, results
