"""numba's CUDA simulator, faster and stricter: for tests of the device on machines without one.

The simulator starts a Python thread for every thread of a block and polls them. Here the threads of a kernel without barriers
run one after the other, in an order that a test can turn round: results that depend on it come from a race. Threads of a kernel
with barriers meet at one that breaks when not all of them come, which is undefined on a GPU.
"""

import threading
from contextlib import contextmanager

import numpy as np

BARRIER_SECONDS = 60.0
_order = {"reversed": False}


def install() -> None:
    """Replace how numba's simulator runs a block."""
    from numba.cuda.simulator import kernel

    kernel.BlockManager.run = _run


@contextmanager
def reversed_order():
    """Threads and blocks from the last to the first."""
    from numba.cuda.simulator import kernel

    def backwards(*shape):
        return list(np.ndindex(*shape))[::-1]

    _order["reversed"], kept = True, kernel.np
    kernel.np = _Ndindex(backwards)
    try:
        yield
    finally:
        _order["reversed"], kernel.np = False, kept


class _Ndindex:
    """numpy with another ``ndindex``, which is how the simulator goes over blocks."""

    def __init__(self, ndindex):
        self.ndindex = ndindex

    def __getattr__(self, name):
        return getattr(np, name)


def _points(shape):
    points = list(np.ndindex(*shape))
    return points[::-1] if _order["reversed"] else points


def _run(self, grid_point, *args):
    from numba.cuda.simulator.kernelapi import Dim3

    block = Dim3(*grid_point)
    if not _has_barriers(self._f):
        me = threading.current_thread()
        me.blockIdx = block
        for point in _points(self._block_dim):
            me.threadIdx = Dim3(*point)
            self._f(*args)
        return
    points = _points(self._block_dim)
    barrier, votes, errors = threading.Barrier(len(points), timeout=BARRIER_SECONDS), [], []

    def count(value):
        votes.append(bool(value))
        barrier.wait()
        total = sum(votes)
        if barrier.wait() == 0:
            votes.clear()
        barrier.wait()
        return total

    def work():
        try:
            self._f(*args)
        except threading.BrokenBarrierError:
            errors.append(RuntimeError(f"{self._f.__qualname__}: not all threads of a block come to a barrier"))
        except Exception as error:
            errors.insert(0, error)
            barrier.abort()

    threads = []
    for point in points:
        thread = threading.Thread(target=work, daemon=True)
        thread.blockIdx, thread.threadIdx = block, Dim3(*point)
        thread.syncthreads, thread.syncthreads_count = barrier.wait, count
        threads.append(thread)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _has_barriers(function, seen=None) -> bool:
    """Whether a kernel, or a device function that it calls, waits for the other threads of its block."""
    function = getattr(function, "py_func", function)
    known = getattr(function, "_has_barriers", None)
    if known is not None:
        return known
    seen = set() if seen is None else seen
    seen.add(function)
    code = function.__code__
    called = [function.__globals__.get(name) for name in code.co_names]
    called += [cell.cell_contents for cell in function.__closure__ or ()]
    called = [getattr(one, "py_func", one) for one in called]
    found = any("syncthreads" in name for name in code.co_names) or any(
        hasattr(one, "__code__") and one not in seen and _has_barriers(one, seen) for one in called
    )
    function._has_barriers = found
    return found
