"""Arrays on the device: torch keeps the memory, kernels see the same bytes through numba.

``transfers`` counts what crosses between host and device, so that a test can say that a step moves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import cuda

from spinmd.cuda.runtime import simulated

DTYPES = {
    "float64": torch.float64, "float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool,
    "uint8": torch.uint8,
}  # fmt: skip

PART = 2**21  # rows


@dataclass
class Transfers:
    """Copies between host and device so far: numbers of copies and bytes."""

    to_host: int = 0
    to_device: int = 0
    bytes_to_host: int = 0
    bytes_to_device: int = 0


transfers = Transfers()


def where() -> torch.device:
    """The device of all tensors."""
    return torch.device("cpu" if simulated() else "cuda:0")


class DeviceArray:
    """An array on the device: ``tensor`` for torch, ``view`` for numba, the same memory. Its shape is fixed.

    argument  what a kernel is given: on a GPU the view with all that numba would find out about it at every launch
    """

    __slots__ = ("argument", "tensor", "view")

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor
        if simulated():
            from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

            self.view: Any = FakeCUDAArray(tensor.numpy())
            self.argument: Any = self.view
        else:
            self.view = cuda.as_cuda_array(tensor.detach(), sync=False)
            self.argument = _prepared(self.view)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def host(self) -> np.ndarray:
        """A copy on the host; waits for the device."""
        transfers.to_host += 1
        transfers.bytes_to_host += self.nbytes
        there = self.tensor.cpu()
        return there.numpy().copy() if there is self.tensor else there.numpy()

    def set(self, values: np.ndarray) -> None:
        """Take values from the host."""
        transfers.to_device += 1
        transfers.bytes_to_device += self.nbytes
        self.tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)))

    def copy_from(self, other: "DeviceArray") -> None:
        """Take the values of another array on the device."""
        self.tensor.copy_(other.tensor)

    def fill(self, value: float) -> None:
        self.tensor.fill_(value)


def _prepared(view: Any) -> Any:
    """A kernel's argument that is looked at once: numba takes some 5 µs to look at an array, a launch has ten of them."""
    from numba.cuda.args import ArgHint, InOut

    class Prepared(ArgHint):
        """Of numba's hints for arguments, one that has nothing left to do."""

        def __init__(self, value: Any):
            super().__init__(value)
            self._there = InOut(value).to_device([])

        def to_device(self, retr: list, stream: Any = 0) -> Any:
            return self._there

    return Prepared(view)


def zeros(shape: int | Sequence[int], dtype: str = "float64") -> DeviceArray:
    """Zeros on the device."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return DeviceArray(torch.zeros(shape, dtype=DTYPES[dtype], device=where()))


def full(shape: int | Sequence[int], value: float, dtype: str = "float64") -> DeviceArray:
    """A constant array on the device."""
    array = zeros(shape, dtype)
    array.fill(value)
    return array


def on_device(values: np.ndarray) -> DeviceArray:
    """A copy of a host array on the device, in C order."""
    values = np.ascontiguousarray(values)
    array = zeros(values.shape, str(values.dtype))
    array.set(values)
    return array


def parts(count: int) -> list[slice]:
    """Pieces of ``count`` rows: sums that torch makes of them one by one need little memory for what lies between."""
    return [slice(k, min(k + PART, count)) for k in range(0, count, PART)]


def reset_transfers() -> None:
    """Count from zero."""
    transfers.to_host = transfers.to_device = transfers.bytes_to_host = transfers.bytes_to_device = 0
