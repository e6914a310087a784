"""One evaluation of the network on all atoms: blocks of one element, and the gathering of what neighbours did.

For every block of up to ``fitting.ROWS`` atoms: pairs and A (``kernels``), energy and ∂E/∂A (``fitting``), and ∂E/∂d
of every pair, written to the places of the list. ``gather`` sums them up for each atom. Blocks do not depend on the
number of threads, and no two threads write to one place: results are bitwise the same for any number of threads.

    F_i = Σ_j g_ij − Σ_j g_ji,  field_j = −η_j Σ_i g^v_ij,  W = −Σ g_ij ⊗ d_ij − Σ_j field_j ⊗ S_j,   g_ij = ∂E_i/∂d_ij

The last sum takes out that the displacements η S of virtual atoms do not strain. With time reversal every sum over
virtual atoms runs over both signs of S, each with half the weight.
"""

from numba import njit, prange

from spinmd.potentials.deepspin.fitting import ROWS, fit_energies, fit_slopes
from spinmd.potentials.deepspin.kernels import GEOMETRY, NUMBERS, accumulate, neighbours, pair_forces
from spinmd.potentials.deepspin.kernels_channels import channel_gradients

NO_GRADIENT, FIELDS_ONLY, EVERYTHING = 0, 1, 2


@njit(inline="always")
def _start_real(i, element, net, real):
    """A without neighbours."""
    at = i * 4 * net.stride
    for m in range(net.stride):
        real[at + m] = net.constant[element * net.stride + m]
    for m in range(net.stride, 4 * net.stride):
        real[at + m] = 0


@njit(inline="always")
def _descriptors(b, w, capacity, signs, have_real, backward, net, atoms, pairs, packed, shift, work):
    """A of the atoms of block b, from real neighbours (kept between calls) and virtual ones; pairs are stored."""
    first, element = atoms.block_start[b], atoms.block_element[b]
    numbers, geometry, rows, places = work.numbers[w], work.geometry[w], work.rows[w], work.places[w]
    ends, a, size = work.ends[w], work.a[w], 4 * net.stride
    kinds = len(atoms.elements)
    work.bad[b] = -1
    for r in range(atoms.block_end[b] - first):
        i = atoms.order[first + r]
        numbers_at, geometry_at, rows_at = r * NUMBERS * capacity, r * GEOMETRY * capacity, r * capacity
        end = 0
        if not have_real or backward == EVERYTHING:
            if not have_real:
                _start_real(i, element, net, work.real)
            end, too_close = neighbours(
                i, element, 0.0, False, kinds, 0, capacity, net, atoms, pairs, packed, shift, places, rows_at, numbers,
                numbers_at, geometry, geometry_at, rows, rows_at, work.real, -1 if have_real else i * size,
            )  # fmt: skip
            if too_close:
                work.bad[b] = i
            if not have_real:
                accumulate(0, end, capacity, net, numbers, numbers_at, rows, rows_at, work.real, i * size)
        ends[r, 0] = end
        for sign in range(signs):
            begin = (end + 7) // 8 * 8 + 8
            at = (sign * ROWS + r) * size
            for m in range(size):
                a[at + m] = work.real[i * size + m]
            end, _ = neighbours(
                i, element, 1.0 - 2.0 * sign, atoms.carries[element], atoms.magnetic_kinds, begin, capacity, net, atoms,
                pairs, packed, shift, places, rows_at, numbers, numbers_at, geometry, geometry_at, rows, rows_at, a, at,
            )  # fmt: skip
            accumulate(begin, end - begin, capacity, net, numbers, numbers_at, rows, rows_at, a, at)
            ends[r, 2 * sign + 1], ends[r, 2 * sign + 2] = begin, end


@njit(inline="always")
def _fit(b, w, signs, backward, net, nets, atoms, work):
    """Energies of the atoms of block b, and ∂E/∂A; the sum of both signs of ∂E/∂A replaces A."""
    first, element = atoms.block_start[b], atoms.block_element[b]
    count, size = atoms.block_end[b] - first, 4 * net.stride
    a, slopes, scratch, energies = work.a[w], work.slopes[w], work.scratch[w], work.sums[w]
    weight = 1.0 / signs
    total = 0.0
    for r in range(count):
        work.energies[atoms.order[first + r]] = 0.0
    for sign in range(signs):
        at = sign * ROWS * size
        fit_energies(count, element, a, at, nets, scratch, energies)
        for r in range(count):
            work.energies[atoms.order[first + r]] += weight * energies[r]
        if backward != NO_GRADIENT:
            fit_slopes(count, element, a, at, nets, scratch, slopes, at)
    for r in range(count):
        total += work.energies[atoms.order[first + r]]
    if signs == 2 and backward != NO_GRADIENT:
        half = ROWS * size
        for k in range(count * size):
            slopes[k] *= weight
            slopes[half + k] *= weight
            a[k] = slopes[k] + slopes[half + k]
    return total


@njit(inline="always")
def _gradients(b, w, capacity, signs, backward, want_virial, net, atoms, pairs, work):
    """∂E/∂d of all pairs of block b to their places, and the forces on the centres."""
    first, element = atoms.block_start[b], atoms.block_element[b]
    numbers, geometry, rows, places = work.numbers[w], work.geometry[w], work.rows[w], work.places[w]
    ends, sums, size, virial = work.ends[w], work.sums[w], 4 * net.stride, work.virials[b]
    c0 = net.c0[element]
    both = work.slopes[w] if signs == 1 else work.a[w]
    virial[:] = 0.0
    for r in range(atoms.block_end[b] - first):
        i = atoms.order[first + r]
        numbers_at, geometry_at, rows_at = r * NUMBERS * capacity, r * GEOMETRY * capacity, r * capacity
        own = pairs.magnetic_start[i + 1] - 1
        fx, fy, fz = 0.0, 0.0, 0.0
        for sign in range(signs):
            begin, end = ends[r, 2 * sign + 1], ends[r, 2 * sign + 2]
            pulls = work.virtual_pulls[sign]
            pulls[pairs.magnetic_start[i] : own + 1] = 0.0
            channel_gradients(
                net.table, rows, rows_at + begin, net.row_length, numbers, numbers_at + begin, capacity, end - begin, net.blocks,
                work.slopes[w], (sign * ROWS + r) * size, net.stride, sums, begin,
            )  # fmt: skip
            x, y, z = pair_forces(
                begin, end, capacity, c0, geometry, geometry_at, sums, places, rows_at, len(pulls) - 1, pulls, want_virial,
                virial,
            )  # fmt: skip
            fx, fy, fz = fx + (x - pulls[own, 0]), fy + (y - pulls[own, 1]), fz + (z - pulls[own, 2])
        if backward == EVERYTHING:
            pulls = work.pulls
            pulls[pairs.start[i] : pairs.start[i + 1]] = 0.0
            channel_gradients(
                net.table, rows, rows_at, net.row_length, numbers, numbers_at, capacity, ends[r, 0], net.blocks, both, r * size,
                net.stride, sums, 0,
            )  # fmt: skip
            x, y, z = pair_forces(
                0, ends[r, 0], capacity, c0, geometry, geometry_at, sums, places, rows_at, len(pulls) - 1, pulls, want_virial,
                virial,
            )  # fmt: skip
            work.centre[i, 0], work.centre[i, 1], work.centre[i, 2] = fx + x, fy + y, fz + z


@njit(cache=True)
def evaluate_share(
    w, workers, capacity, signs, have_real, backward, want_virial, net, nets, atoms, pairs, packed, shift, work
):
    """What worker w of ``workers`` does of ``evaluate_blocks``: every ``workers``-th block."""
    for b in range(w, len(atoms.block_start), workers):
        _descriptors(b, w, capacity, signs, have_real, backward, net, atoms, pairs, packed, shift, work)
        work.block_energies[b] = _fit(b, w, signs, backward, net, nets, atoms, work)
        if backward != NO_GRADIENT:
            _gradients(b, w, capacity, signs, backward, want_virial, net, atoms, pairs, work)


@njit(cache=True, parallel=True)
def evaluate_blocks(
    workers, capacity, signs, have_real, backward, want_virial, net, nets, atoms, pairs, packed, shift, work
):
    """Energies, and (``backward``) ∂E/∂d in ``work``, of all atoms; block b is done by worker b modulo ``workers``.

    capacity   length of a column of stored pairs;  signs  2 with time reversal, else 1
    have_real  ``work.real`` is up to date with the positions
    """
    for w in prange(workers):
        evaluate_share(
            w, workers, capacity, signs, have_real, backward, want_virial, net, nets, atoms, pairs, packed, shift,
            work,
        )  # fmt: skip


@njit(cache=True)
def _gather_block(
    first,
    last,
    signs,
    backward,
    eta,
    moments,
    spins,
    pairs,
    pulls,
    virtual_pulls,
    centre,
    want_forces,
    want_fields,
    forces,
    fields,
    virial,
):
    virial[:] = 0.0
    for j in range(first, last):
        fx, fy, fz = 0.0, 0.0, 0.0
        hx, hy, hz = 0.0, 0.0, 0.0
        if eta[j] != 0.0:
            own = pairs.magnetic_start[j + 1] - 1
            for sign in range(signs):
                rows = virtual_pulls[sign]
                gx, gy, gz = 0.0, 0.0, 0.0
                for k in range(pairs.magnetic_place_start[j], pairs.magnetic_place_start[j + 1]):
                    p = pairs.magnetic_places[k]
                    gx, gy, gz = gx + rows[p, 0], gy + rows[p, 1], gz + rows[p, 2]
                fx, fy, fz = fx - gx, fy - gy, fz - gz
                scale = -eta[j] if sign == 0 else eta[j]
                hx += scale * (gx + rows[own, 0])
                hy += scale * (gy + rows[own, 1])
                hz += scale * (gz + rows[own, 2])
            if want_fields and moments[j] > 0.0:  # a spin that is zero for good has no field
                fields[j, 0] += hx
                fields[j, 1] += hy
                fields[j, 2] += hz
        if backward == EVERYTHING:
            h = (hx, hy, hz)
            for a in range(3):
                for c in range(3):
                    virial[3 * a + c] -= h[a] * spins[j, c]
            if want_forces:
                for k in range(pairs.place_start[j], pairs.place_start[j + 1]):
                    p = pairs.places[k]
                    fx, fy, fz = fx - pulls[p, 0], fy - pulls[p, 1], fz - pulls[p, 2]
                forces[j, 0] += fx + centre[j, 0]
                forces[j, 1] += fy + centre[j, 1]
                forces[j, 2] += fz + centre[j, 2]


@njit(cache=True, parallel=True)
def gather(
    signs,
    backward,
    eta,
    moments,
    spins,
    pairs,
    pulls,
    virtual_pulls,
    centre,
    want_forces,
    want_fields,
    forces,
    fields,
    virials,
    block,
):
    """Add forces and fields of all atoms, and the virial's sum over field ⊗ S, from what stands in the places."""
    natoms = len(eta)
    for b in prange(len(virials)):
        _gather_block(
            b * block, min((b + 1) * block, natoms), signs, backward, eta, moments, spins, pairs, pulls, virtual_pulls, centre,
            want_forces, want_fields, forces, fields, virials[b],
        )  # fmt: skip


@njit(cache=True)
def virtual_shifts(spins, eta, shift):
    """η S (Å) to the rows of ``shift`` (N, 4); the longest one squared (nan if a spin is not a number), and its atom."""
    longest, atom = -1.0, -1
    for i in range(len(spins)):
        x, y, z = eta[i] * spins[i, 0], eta[i] * spins[i, 1], eta[i] * spins[i, 2]
        shift[i, 0], shift[i, 1], shift[i, 2] = x, y, z
        length = x * x + y * y + z * z
        if not length <= longest:
            longest, atom = length, i
            if length != length:
                break
    return longest, atom
