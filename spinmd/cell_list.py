"""Kernels of the neighbour lists: wrapping, ghosts, binning, the search, and the filter for shorter cutoffs.

The search walks rows of bins along x: a row is one contiguous run of the binned positions, so that distances are
compared without indirection. Padding: every atom's segment is filled up to a multiple of 8 with the dummy index.
"""

import math

import numpy as np
from numba import njit, prange

import spinmd.backend  # noqa: F401  (the cache folder, before kernels are defined)
from spinmd.simd import bit_count, gather_rows4, load, mask_less

PAD = 8


@njit(cache=True)
def wrap_positions(positions, images, cell, inverse, pbc):
    """Move positions into the cell along periodic directions; ``images`` counts the lattice vectors taken off."""
    for i in range(positions.shape[0]):
        for a in range(3):
            if pbc[a]:
                s = positions[i, 0] * inverse[0, a] + positions[i, 1] * inverse[1, a] + positions[i, 2] * inverse[2, a]
                n = math.floor(s)
                if n != 0.0 and abs(n) < 1.0e9:
                    for b in range(3):
                        positions[i, b] -= n * cell[a, b]
                    images[i, a] += np.int32(n)


@njit(cache=True)
def _image_range(s, margin):
    """Images n of an atom with fractional coordinate s that lie within ``margin`` of the cell; (0, 0) where margin < 0."""
    if margin < 0.0:
        return 0, 0
    return int(math.ceil(-margin - s)), int(math.floor(1.0 + margin - s))


@njit(cache=True)
def _fractional(positions, i, inverse, a):
    return positions[i, 0] * inverse[0, a] + positions[i, 1] * inverse[1, a] + positions[i, 2] * inverse[2, a]


@njit(cache=True)
def count_ghosts(positions, inverse, margins, counts):
    """``counts[i + 1]`` = ghosts of atoms 0..i (cumulative)."""
    total = 0
    for i in range(positions.shape[0]):
        n = 1
        for a in range(3):
            first, last = _image_range(_fractional(positions, i, inverse, a), margins[a])
            n *= last - first + 1
        total += n - 1
        counts[i + 1] = total


@njit(cache=True)
def fill_ghosts(positions, inverse, margins, counts, owner, image):
    """Owners and image numbers of the ghosts, atom by atom, after the first N entries."""
    natoms = positions.shape[0]
    for i in range(natoms):
        k = natoms + counts[i]
        x0, x1 = _image_range(_fractional(positions, i, inverse, 0), margins[0])
        y0, y1 = _image_range(_fractional(positions, i, inverse, 1), margins[1])
        z0, z1 = _image_range(_fractional(positions, i, inverse, 2), margins[2])
        for nx in range(x0, x1 + 1):
            for ny in range(y0, y1 + 1):
                for nz in range(z0, z1 + 1):
                    if nx != 0 or ny != 0 or nz != 0:
                        owner[k] = i
                        image[k, 0], image[k, 1], image[k, 2] = nx, ny, nz
                        k += 1


@njit(cache=True, parallel=True)
def update_packed(positions, cell, built, transform, owner, image, n_ext, packed, block_max, block):
    """Copy positions and their images into ``packed``; per block, the largest squared displacement since the build, Å²."""
    natoms = positions.shape[0]
    for b in prange(block_max.shape[0]):
        largest = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
            packed[i, 0], packed[i, 1], packed[i, 2] = x, y, z
            u, v, w = built[i, 0], built[i, 1], built[i, 2]
            dx = x - (u * transform[0, 0] + v * transform[1, 0] + w * transform[2, 0])
            dy = y - (u * transform[0, 1] + v * transform[1, 1] + w * transform[2, 1])
            dz = z - (u * transform[0, 2] + v * transform[1, 2] + w * transform[2, 2])
            d2 = dx * dx + dy * dy + dz * dz
            if largest == largest and not d2 <= largest:  # NaN comes in, and must not be lost again
                largest = d2
        block_max[b] = largest
    nghosts = n_ext - natoms
    chunk = 4096
    for c in prange((nghosts + chunk - 1) // chunk):
        for k in range(natoms + c * chunk, natoms + min((c + 1) * chunk, nghosts)):
            i = owner[k]
            nx, ny, nz = image[k, 0], image[k, 1], image[k, 2]
            for a in range(3):
                packed[k, a] = positions[i, a] + (nx * cell[0, a] + ny * cell[1, a] + nz * cell[2, a])


@njit(cache=True)
def _bin(x, low, inverse_size, n):
    return min(max(int((x - low) * inverse_size), 0), n - 1)


@njit(cache=True)
def bin_positions(packed, n_ext, low, inverse_size, shape):
    """Counting sort by bin, x fastest. Returns bin starts, the entries in bin order (n_ext + 8), and their
    coordinates (3, n_ext + 8)."""
    nx, ny, nz = shape[0], shape[1], shape[2]
    starts = np.zeros(nx * ny * nz + 1, dtype=np.int64)
    index = np.empty(n_ext, dtype=np.int64)
    for k in range(n_ext):
        bx = _bin(packed[k, 0], low[0], inverse_size, nx)
        by = _bin(packed[k, 1], low[1], inverse_size, ny)
        bz = _bin(packed[k, 2], low[2], inverse_size, nz)
        index[k] = (bz * ny + by) * nx + bx
        starts[index[k] + 1] += 1
    for b in range(nx * ny * nz):
        starts[b + 1] += starts[b]
    cursor = starts[:-1].copy()
    order = np.zeros(n_ext + 8, dtype=np.int32)
    ordered = np.full((3, n_ext + 8), 1.0e30)
    for k in range(n_ext):
        at = cursor[index[k]]
        cursor[index[k]] += 1
        order[at] = k
        for a in range(3):
            ordered[a, at] = packed[k, a]
    return starts, order, ordered


@njit(cache=True)
def _row_gap(x, low, size, b):
    """Distance from coordinate x to the slab of bin b, Å."""
    left = low + b * size
    return max(left - x, x - (left + size), 0.0)


@njit(cache=True)
def _padded(n):
    return (n + PAD - 1) // PAD * PAD


@njit(cache=True)
def _append(found, n, entries, first, mask):
    """Append ``entries[first + lane]`` of the lanes in ``mask`` to ``found`` after its first n; the new n.

    Without branches: every lane is written, and kept by going on to the next place. ``found`` needs eight places to
    spare.
    """
    for lane in range(8):
        found[n] = entries[first + lane]
        n += (mask >> lane) & 1
    return n


@njit(cache=True)
def _copy_padded(found, n, itself, neighbours, first, last, dummy):
    """Write the n entries found, without ``itself``, to places first to last, and ``dummy`` to the rest of these."""
    at = first
    for k in range(n):
        if found[k] != itself:
            neighbours[at] = found[k]
            at += 1
    for k in range(at, last):
        neighbours[k] = dummy


@njit(cache=True)
def _search(i, packed, reach, low, inverse_size, shape, bin_start, order, xs, ys, zs, found, fill):
    """Count (fill False), or count and write to ``found``, the entries within ``reach`` of atom i, itself included.

    Coordinates come eight at a time; ``xs`` and so on, and ``order``, have eight more entries at their end.
    """
    x, y, z = packed[i, 0], packed[i, 1], packed[i, 2]
    size = 1.0 / inverse_size
    reach2 = reach * reach
    nx, ny, nz = shape[0], shape[1], shape[2]
    n = 0
    for bz in range(_bin(z - reach, low[2], inverse_size, nz), _bin(z + reach, low[2], inverse_size, nz) + 1):
        gz = _row_gap(z, low[2], size, bz) if 0 < bz < nz - 1 else 0.0
        for by in range(_bin(y - reach, low[1], inverse_size, ny), _bin(y + reach, low[1], inverse_size, ny) + 1):
            gy = _row_gap(y, low[1], size, by) if 0 < by < ny - 1 else 0.0
            left = reach2 - gy * gy - gz * gz
            if left <= -1.0e-9 * reach2:
                continue
            half = math.sqrt(max(left, 0.0)) + 1.0e-9 * reach
            row = (bz * ny + by) * nx
            first = bin_start[row + _bin(x - half, low[0], inverse_size, nx)]
            last = bin_start[row + _bin(x + half, low[0], inverse_size, nx) + 1]
            for k in range(first, last, 8):
                dx = load(xs, k) - x
                dy = load(ys, k) - y
                dz = load(zs, k) - z
                mask = mask_less(dx * dx + dy * dy + dz * dz, reach2)
                if last - k < 8:
                    mask &= (1 << (last - k)) - 1
                if fill:
                    n = _append(found, n, order, k, mask)
                else:
                    n += bit_count(mask)
    return n


@njit(cache=True, parallel=True)
def count_pairs(natoms, packed, reach, low, inverse_size, shape, bin_start, order, ordered, start, block):
    """``start[i + 1]`` = padded number of neighbours of atom i."""
    for b in prange((natoms + block - 1) // block):
        xs, ys, zs = ordered[0], ordered[1], ordered[2]
        for i in range(b * block, min((b + 1) * block, natoms)):
            n = _search(i, packed, reach, low, inverse_size, shape, bin_start, order, xs, ys, zs, order, False)
            start[i + 1] = _padded(n - 1)


@njit(cache=True, parallel=True)
def fill_pairs(
    natoms, packed, reach, low, inverse_size, shape, bin_start, order, ordered, start, neighbours, dummy, longest, block
):  # fmt: skip
    """Write the neighbours of every atom to its segment; ``longest`` is the length of the longest segment."""
    for b in prange((natoms + block - 1) // block):
        xs, ys, zs = ordered[0], ordered[1], ordered[2]
        found = np.empty(longest + 16, dtype=np.int32)
        for i in range(b * block, min((b + 1) * block, natoms)):
            n = _search(i, packed, reach, low, inverse_size, shape, bin_start, order, xs, ys, zs, found, True)
            _copy_padded(found, n, i, neighbours, start[i], start[i + 1], dummy)


@njit(cache=True)
def _mask_within(packed, i, wide, k, reach2):
    x, y, z, _ = gather_rows4(packed, load(wide, k))
    dx, dy, dz = x - packed[i, 0], y - packed[i, 1], z - packed[i, 2]
    return mask_less(dx * dx + dy * dy + dz * dz, reach2)


@njit(cache=True, parallel=True)
def filter_count(natoms, packed, reach, wide_start, wide, start, block):
    """As ``count_pairs``, from a list of a larger radius."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            n = 0
            for k in range(wide_start[i], wide_start[i + 1], 8):
                n += bit_count(_mask_within(packed, i, wide, k, reach * reach))
            start[i + 1] = _padded(n)


@njit(cache=True, parallel=True)
def filter_fill(natoms, packed, reach, wide_start, wide, start, neighbours, dummy, longest, block):
    """As ``fill_pairs``, from a list of a larger radius."""
    for b in prange((natoms + block - 1) // block):
        found = np.empty(longest + 16, dtype=np.int32)
        for i in range(b * block, min((b + 1) * block, natoms)):
            n = 0
            for k in range(wide_start[i], wide_start[i + 1], 8):
                n = _append(found, n, wide, k, _mask_within(packed, i, wide, k, reach * reach))
            _copy_padded(found, n, -1, neighbours, start[i], start[i + 1], dummy)


@njit(cache=True)
def _spread(v):
    """Put two zero bits between the lowest 20 bits of v."""
    v = np.uint64(v) & np.uint64(0xFFFFF)
    v = (v | (v << np.uint64(32))) & np.uint64(0x1F00000000FFFF)
    v = (v | (v << np.uint64(16))) & np.uint64(0x1F0000FF0000FF)
    v = (v | (v << np.uint64(8))) & np.uint64(0x100F00F00F00F00F)
    v = (v | (v << np.uint64(4))) & np.uint64(0x10C30C30C30C30C3)
    return (v | (v << np.uint64(2))) & np.uint64(0x1249249249249249)


@njit(cache=True)
def morton_codes(positions, low, size):
    """Morton code of the bin of each position."""
    codes = np.empty(positions.shape[0], dtype=np.uint64)
    for i in range(positions.shape[0]):
        code = np.uint64(0)
        for a in range(3):
            b = min(max(int((positions[i, a] - low[a]) / size), 0), 1048575)
            code |= _spread(b) << np.uint64(a)
        codes[i] = code
    return codes
