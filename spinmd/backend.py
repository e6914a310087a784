"""Where kernels run: numba's cache, the number of threads, and the fixed blocks over which all sums are taken.

Every module that defines kernels imports this one first. Kernels loop over blocks of ``BLOCK`` atoms with ``prange``;
sums over atoms are taken within a block first and then over the blocks in order, so that results do not depend on the
number of threads.
"""

from dataclasses import dataclass

import numpy as np

from spinmd import jitcache

jitcache.configure()

import numba  # noqa: E402  (after the cache folder is set)

from spinmd.errors import InputError  # noqa: E402

BLOCK = 256


def block_count(natoms: int) -> int:
    """Number of fixed blocks for ``natoms`` atoms."""
    return (natoms + BLOCK - 1) // BLOCK


def aligned_zeros(shape, alignment: int = 64) -> np.ndarray:
    """Zeros (float64) that start at a cache line, so that rows of 4 or 8 numbers never straddle two lines."""
    count = int(np.prod(shape))
    raw = np.zeros(count + alignment // 8)
    skip = (-raw.ctypes.data % alignment) // 8
    return raw[skip : skip + count].reshape(shape)


@dataclass(frozen=True)
class Backend:
    """What potentials are told in ``prepare``: the number of threads. The GPU's terms are made of prepared ones (see ``cuda``)."""

    threads: int = 1


def available_threads() -> int:
    """Threads that this process may use."""
    return int(numba.config.NUMBA_NUM_THREADS)


def make_backend(threads: int | None = None) -> Backend:
    """A backend; ``threads`` None means all cores that this process may use. Raises InputError for what is not there."""
    available = available_threads()
    if threads is None:
        threads = available
    if not 1 <= threads <= available:
        raise InputError(f"{threads} threads asked for, this process may use 1 to {available}", "--threads")
    numba.set_num_threads(threads)
    return Backend(threads)
