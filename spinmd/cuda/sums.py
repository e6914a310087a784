"""Sums over a block of threads, in a fixed order, for kernels that decide something on the device."""

from numba import cuda, types

from spinmd.cuda.runtime import simulated

THREADS = 16 if simulated() else 128  # of a block that sums; the simulator starts a Python thread for each


@cuda.jit(device=True)
def block_sum(value, room):
    """The sum of ``value`` over the threads of a block, given to all, who all call it; ``room``: shared, THREADS numbers."""
    t = cuda.threadIdx.x
    room[t] = value
    cuda.syncthreads()
    width = THREADS // 2
    while width > 0:
        if t < width:
            room[t] += room[t + width]
        cuda.syncthreads()
        width //= 2
    total = room[0]
    cuda.syncthreads()
    return total


FLOAT = types.float64


@cuda.jit(device=True)
def subtract_virial(virials, i, share, xx, xy, xz, yx, yy, yz, zx, zy, zz):
    """Row i of ``virials`` (N, 9), eV, less ``share`` times a tensor by rows."""
    virials[i, 0] -= share * xx
    virials[i, 1] -= share * xy
    virials[i, 2] -= share * xz
    virials[i, 3] -= share * yx
    virials[i, 4] -= share * yy
    virials[i, 5] -= share * yz
    virials[i, 6] -= share * zx
    virials[i, 7] -= share * zy
    virials[i, 8] -= share * zz


@cuda.jit(device=True)
def is_last_block(ticket, room):
    """Whether all other blocks of this launch have been here before, so that what they wrote until then can be read.

    ``ticket``: (1,) int64 zero, and zero again afterwards; ``room``: as for ``block_sum``. What a block leaves for the last one is
    written by its thread 0. All threads call it.
    """
    if cuda.threadIdx.x == 0:
        cuda.threadfence()
        last = cuda.atomic.add(ticket, 0, 1) == cuda.gridDim.x - 1
        if last:
            ticket[0] = 0
        room[0] = 1.0 if last else 0.0
        cuda.threadfence()
    cuda.syncthreads()
    last = room[0] != 0.0
    cuda.syncthreads()
    return last
