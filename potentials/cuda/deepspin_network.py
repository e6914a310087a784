"""The network of a DeepSPIN model on the GPU: tables and nets on the device, and one evaluation, block by block of rows.

What the passes do and read per atom, with P pairs within the cutoff (real and virtual), M channels (padded to LANES), L entries
in the list and b bytes per number of the precision, in multiply-adds and bytes:

    A                  9 P M;  6 b P M of table rows, from the first- and second-level caches
    sums over channels 18 P M;  6 b P M of table rows again, 4 b P M of ∂E/∂A from the first-level cache
    descriptor, back   4 M axis and 8 M axis;  4 b M axis of memory
    fitting net, back  2 Σ n_in n_out, as matrix products
    pairs              some 120 P operations in float64;  memory: P (5 b + 4) of numbers, 96 P of geometry and sums, 32 P of pulls
    gather             memory: 8 L of list and transpose, 24 L for each section's own pulls, 32 P of others'

Blocks of rows are as large as ``BLOCK_BYTES`` allows, so that memory does not grow with the number of atoms, but for A of the real
neighbours (4 M b per atom; good while positions stay, so that a field in a spin solve costs virtual neighbours only) and the
pulls (24 bytes for each place of the list and section: real, virtual, and with time reversal virtual the other way).
"""

import numpy as np

from spinmd.cuda.arrays import on_device, zeros
from spinmd.cuda.sums import THREADS
from spinmd.potentials.cuda.deepspin_kernels import (
    ACCUMULATE,
    ADD_ENERGIES,
    COEFFICIENTS,
    DESCRIBE,
    DESCRIBE_PAIRS,
    LANES,
    SUM_CHANNELS,
    UNDESCRIBE,
    gather,
    pick,
    pull_pairs,
)
from spinmd.potentials.cuda.deepspin_lists import scale_spins
from spinmd.potentials.cuda.deepspin_nets import DeviceNet
from spinmd.protocols import Need

BLOCK_BYTES = 2**29  # of the buffers for one block of rows


class DeviceNetwork:
    """``part``: a prepared ``NetworkPart``;  ``elements`` (N,) the model's element of each atom."""

    def __init__(self, part, elements: np.ndarray):
        model, net = part.model, part._net
        network, n = model.network, len(model.elements)
        self._precision = str(np.dtype(part.dtype))
        self.signs, self._reach = part.signs, part._reach
        self._width, self._axis = network.width, network.axis
        self.stride = -(-network.width // LANES) * LANES
        self._table = on_device(_in_lanes(part.tables, self.stride))
        self._rows_of, self._bits_of = on_device(net.rows.astype(np.int32)), on_device(net.bits.astype(np.int32))
        self._scales = on_device(np.stack([net.mean, net.c0, net.c1], axis=1))
        constant, empty = net.constant.reshape(n, -1), net.empty.reshape(2 * n, n, -1)
        self._constant, self._empty = on_device(_fit(constant, self.stride)), on_device(_fit(empty, self.stride))
        self._c0 = net.c0
        self._cutoff, self._smooth, self._protection, self._offset = net.cutoff, net.smooth, net.protection, net.offset
        self._octaves = part.tables.octaves
        atoms = part._atoms
        self._closest = on_device(np.ascontiguousarray(atoms.closest, dtype=np.float64))
        self._carries = on_device(atoms.carries.astype(np.int32))
        self._elements, self._eta = on_device(elements.astype(np.int32)), on_device(part._eta)
        order = np.argsort(elements, kind="stable")
        self._order = on_device(order.astype(np.int32))
        ends = np.searchsorted(elements[order], np.arange(n + 1))
        self._ranges = [(e, int(ends[e]), int(ends[e + 1])) for e in range(n) if ends[e + 1] > ends[e]]
        self._fitting = network.fitting
        natoms = len(elements)
        self._shift = zeros((natoms, 4))
        self._real = zeros((natoms, 4, self.stride), self._precision)
        self._own = zeros((self.signs, natoms, 3))
        self._room, self._known = 0, (None, -1)

    def _make_room(self, room: int) -> None:
        """Buffers for lists of ``room`` entries per atom."""
        natoms, signs, name = len(self._elements), self.signs, self._precision
        number = np.dtype(name).itemsize
        self._capacity = capacity = room * (1 + signs) + signs
        slots = 2 if signs == 2 else 0  # of ∂E/∂A, beyond the first
        inner = max(DeviceNet.numbers_per_row(net) for net in self._fitting)
        bytes_per_row = capacity * (8 + 5 * number + 96) + number * (4 * self.stride * (2 + slots) + inner)
        most = max(last - first for _, first, last in self._ranges)
        self._rows = rows = int(min(max(BLOCK_BYTES // bytes_per_row, 1), most))
        self._slots, self._table_rows = zeros((rows, capacity), "int32"), zeros((rows, capacity), "int32")
        self._numbers, self._geometry = zeros((rows, capacity, 5), name), zeros((rows, capacity, 7))
        self._sums, self._ends = zeros((rows, capacity, 5)), zeros((rows, 1 + signs), "int32")
        self._filled = zeros((rows, 1 + signs, len(self._c0)), "int32")
        self._a, self._slopes = zeros((rows, 4, self.stride), name), zeros((1 + slots, rows, 4, self.stride), name)
        self._nets = {e: DeviceNet(self._fitting[e], rows, name) for e, _, _ in self._ranges}
        self._pulls = zeros(((1 + signs) * room, natoms, 3))
        self._room = room

    def add(self, state, pairs, reverse, out, need) -> None:
        """Launch energies, forces, fields and virials as far as needed; ``reverse`` as in ``deepspin_lists``."""
        room = pairs.neighbours.shape[0]
        if room != self._room:
            self._make_room(room)
            self._known = (None, -1)
        everything = bool(need & (Need.FORCE | Need.VIRIAL))
        backward = everything or Need.FIELD in need
        have_real = self._known == (pairs, pairs.version)
        real_ones = everything or not have_real
        scale_spins(state.natoms, state.spins, self._eta, self._shift)
        if backward:
            self._pulls.tensor[0 if everything else room :].zero_()
            self._own.fill(0.0)
        for element, begin, end in self._ranges:
            for first in range(begin, end, self._rows):
                rows = min(self._rows, end - first)
                self._describe(rows, first, element, pairs, real_ones, have_real)
                self._fit(rows, first, element, out, Need.ENERGY in need, backward)
                if backward:
                    self._pull(rows, first, element, int(everything))
        self._known = (pairs, pairs.version)
        if backward:
            gather(
                state.natoms, self.signs, int(Need.FORCE in need), int(Need.FIELD in need), int(Need.VIRIAL in need), self._eta,
                state.moments, pairs.packed, pairs.owner, pairs.neighbours, pairs.count, reverse, self._pulls, self._own,
                out.forces, out.fields, out.virials,
            )  # fmt: skip

    def _describe(self, rows, first, element, pairs, real_ones, have_real) -> None:
        """Slots of a block of rows, and A of the real neighbours unless that is known."""
        name, signs = self._precision, self.signs
        pick(
            rows, rows, first, signs, int(real_ones), self._order, pairs.packed, pairs.owner, self._elements, pairs.neighbours,
            pairs.count, self._shift, self._rows_of, self._carries, self._closest, self._cutoff**2, self._reach**2, self._slots,
            self._ends, self._filled, pairs.lists.status,
        )  # fmt: skip
        DESCRIBE_PAIRS[name](
            rows * self._capacity, rows, first, self._capacity, signs, self._order, pairs.packed, pairs.owner, self._elements,
            pairs.neighbours, self._shift, self._slots, self._ends, self._rows_of, self._bits_of, self._scales, self._cutoff,
            self._smooth, self._protection, self._offset, self._octaves, self._table_rows, self._numbers, self._geometry,
        )  # fmt: skip
        if not have_real:
            self._accumulate(rows, first, 0, element, 1, self._real)

    def _accumulate(self, rows, first, section, element, start_at, a) -> None:
        ACCUMULATE[self._precision](
            rows * self.stride, rows, first, section, element, self._order, self._ends, self._filled, self._table_rows,
            self._numbers, self._table, self._constant, self._empty, self._real, start_at, a,
        )  # fmt: skip

    def _fit(self, rows, first, element, out, want_energy, backward) -> None:
        """Energies of a block of rows, and ∂E/∂A; with time reversal half of each sign's."""
        name, signs, net = self._precision, self.signs, self._nets[element]
        width, axis = self._width, self._axis
        for sign in range(signs):
            self._accumulate(rows, first, 1 + sign, element, 0, self._a)
            DESCRIBE[name](rows * width * axis, rows, width, axis, self._a, net.input)
            net.forward(rows)
            if want_energy:
                ADD_ENERGIES[name](rows, rows, first, self._order, 1.0 / signs, net.energies, out.energies)
            if backward:
                net.backward(rows)
                slot, sum_up = (0, 0) if signs == 1 else (1 + sign, 2 - sign)
                UNDESCRIBE[name](
                    rows * self.stride,
                    rows,
                    width,
                    axis,
                    slot,
                    1.0 / signs,
                    sum_up,
                    self._a,
                    net.slopes,
                    self._slopes,
                )

    def _pull(self, rows, first, element, everything) -> None:
        """∂E/∂d of all pairs of a block of rows to their places."""
        SUM_CHANNELS[self._precision](
            rows * THREADS,
            rows,
            self.signs,
            everything,
            self._table_rows,
            self._numbers,
            self._ends,
            self._table,
            self._slopes,
            self._sums,
        )
        pull_pairs(
            rows * self._capacity, rows, first, self._capacity, self.signs, everything, self._room, self._order, self._slots,
            self._ends, float(self._c0[element]), self._geometry, self._sums, self._pulls, self._own,
        )  # fmt: skip


def _fit(values: np.ndarray, stride: int) -> np.ndarray:
    """The last axis cut or padded with zeros to ``stride`` channels: what is cut is padding."""
    result = np.zeros((*values.shape[:-1], stride), values.dtype)
    n = min(stride, values.shape[-1])
    result[..., :n] = values[..., :n]
    return result


def _in_lanes(tables, stride: int) -> np.ndarray:
    """Flat coefficients (row, block, coefficient, lane) for blocks of LANES channels, from blocks of ``tables.lanes``."""
    given = tables.coefficients.reshape(-1, tables.blocks, COEFFICIENTS, tables.lanes)
    channels = _fit(given.transpose(0, 2, 1, 3).reshape(len(given), COEFFICIENTS, -1), stride)
    return channels.reshape(len(given), COEFFICIENTS, stride // LANES, LANES).transpose(0, 2, 1, 3).ravel()
