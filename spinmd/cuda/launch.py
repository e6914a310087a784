"""Launching kernels: block size, the one stream, and the register of kernels that tests look through.

``kernel`` is numba's ``cuda.jit`` with a register of all kernels and their signatures, so that a test can compile every one of them
to PTX without a GPU. No kernel of a step needs a decision of the host, so that a step may be captured as a CUDA graph.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import cuda, types

from spinmd.cuda.runtime import simulated
from spinmd.cuda.sums import THREADS

KERNELS: dict[str, tuple[Callable, tuple]] = {}  # name -> Python function, signature

REALS = {"float64": "float64", "mixed": "float32"}  # of pair arithmetic and its tables
MOST_BLOCKS = 4096  # of kernels that go in strides: twice what the largest GPUs hold at a time
f8, f4, i8, i4, u1 = types.float64, types.float32, types.int64, types.int32, types.uint8


def array(kind: Any, dimensions: int) -> Any:
    """numba's type of a C-ordered array."""
    return types.Array(kind, dimensions, "C")


class Kernel:
    """A device kernel with one thread per item; ``kernel(count, *arguments)`` launches it on the stream of the run."""

    def __init__(self, function: Callable, signature: tuple, fastmath: bool = False):
        self.function, self.signature = function, signature
        self.name = f"{function.__module__}.{function.__qualname__}"
        KERNELS[self.name] = (function, signature)
        self._compile = (
            cuda.jit(fastmath=fastmath)
            if simulated()
            else cuda.jit(types.void(*signature), fastmath=fastmath, cache=True)  # in the folder of ``jitcache``
        )
        self._ready: Any = None
        self._configured: dict[tuple[int, int], Any] = {}  # (blocks, handle of the stream) -> what numba launches

    def __call__(self, count: int, *arguments: Any) -> None:
        if count <= 0:
            return
        if simulated():  # which takes anything: a GPU does not
            self._check(arguments)
        self.compile()
        self._launcher(blocks(count), *stream())(*[getattr(a, "argument", a) for a in arguments])

    def compile(self) -> Any:
        """numba's dispatcher: compiled or read from the cache at the first call."""
        if self._ready is None:
            self._ready = self._compile(self.function)
        return self._ready

    def _launcher(self, blocks: int, handle: int, stream: Any) -> Any:
        """The kernel for so many blocks on a stream. Kept here: numba keeps 128 of all kernels, and a run has more."""
        if simulated():  # whose configured kernels are all the same object
            return self._ready[blocks, THREADS, stream]
        found = self._configured.get((blocks, handle))
        if found is None:
            with warnings.catch_warnings():  # of grids that are smaller than the GPU: so are systems, and sums of sums
                warnings.simplefilter("ignore")
                found = self._configured[blocks, handle] = self._ready[blocks, THREADS, stream]
        return found

    def _check(self, arguments: tuple) -> None:
        """TypeError for arguments that are not of the kernel's types, since a GPU would take other bytes for them."""
        if len(arguments) != len(self.signature):
            raise TypeError(f"{self.function.__qualname__} takes {len(self.signature)} arguments, not {len(arguments)}")
        names = self.function.__code__.co_varnames
        for name, kind, given in zip(names, self.signature, arguments, strict=False):
            if isinstance(kind, types.Array):
                tensor = getattr(given, "tensor", None)
                fits = tensor is not None and tensor.ndim == kind.ndim and tensor.is_contiguous()
                fits = fits and str(tensor.dtype) == f"torch.{kind.dtype}"
            else:
                fits = isinstance(given, (float, np.floating) if isinstance(kind, types.Float) else (int, np.integer))
            if not fits:
                what = given if not hasattr(given, "tensor") else f"{given.tensor.dtype} {tuple(given.shape)}"
                raise TypeError(f"{self.function.__qualname__}: {name} is {kind}, got {what}")


def kernel(*signature: Any, fastmath: bool = False) -> Callable[[Callable], Kernel]:
    """Decorator: a Kernel of these argument types."""
    return lambda function: Kernel(function, signature, fastmath)


def in_both(make: Callable[[Any], Kernel], kind: str = "", short: str = "mixed") -> dict[str, Kernel]:
    """The kernels that ``make(real)`` gives in float64, and in float32, which is called ``short``: one text, compiled twice.

    ``kind`` tells them from others of the same text. ``real`` is numba's type, which also converts: ``real(x)``. Tables come in
    this type; with "mixed", sums and everything per atom are float64.
    """
    kernels = {}
    for name, real in (("float64", f8), (short, f4)):
        one = make(real)
        KERNELS.pop(one.name)
        one.name = f"{one.name}[{', '.join(filter(None, (name, kind)))}]"
        KERNELS[one.name] = (one.function, one.signature)
        kernels[name] = one
    return kernels


def blocks(count: int) -> int:
    """Number of blocks that a launch over ``count`` items has: the length of arrays of partial sums."""
    return (count + THREADS - 1) // THREADS


def strided(count: int) -> int:
    """Threads for a kernel that goes over ``count`` items in strides: few enough for one block to sum what the blocks leave."""
    return min(count, MOST_BLOCKS * THREADS)


_streams: dict[int, Any] = {}  # handle of the driver -> numba's
_own: list[Any] = []  # the stream of runs, once there is one


def stream() -> tuple[int, Any]:
    """Handle of torch's current stream, on which everything of a run happens, and numba's object for it."""
    if simulated():
        return 0, 0
    import torch

    handle = torch.cuda.current_stream().cuda_stream
    if handle not in _streams:
        _streams[handle] = cuda.external_stream(handle)
    return handle, _streams[handle]


@contextmanager
def own_stream() -> Iterator[None]:
    """A stream for runs: the default one cannot be captured as a graph.

    It is the same for all runs of a process, since the memory that torch keeps belongs to a stream. It begins after what the
    stream outside has been given so far, and what that is given afterwards waits for it: neither does so by itself.
    """
    if simulated():
        yield
        return
    import torch

    if not _own:
        _own.append(torch.cuda.Stream())
    inside, outside = _own[0], torch.cuda.current_stream()
    inside.wait_stream(outside)
    with torch.cuda.stream(inside):
        try:
            yield
        finally:
            outside.wait_stream(inside)
    inside.synchronize()
