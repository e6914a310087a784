"""The network's part of a DeepSPIN energy: packs a model for the kernels, keeps lists and buffers, answers calls."""

import numba
import numpy as np

from spinmd.backend import BLOCK, aligned_zeros, block_count
from spinmd.potentials.deepspin.fitting import ROWS, pack_fitting, scratch_size
from spinmd.potentials.deepspin.kernels import GEOMETRY, NUMBERS, Atoms, Descriptor, Work
from spinmd.potentials.deepspin.kernels_blocks import (
    EVERYTHING,
    FIELDS_ONLY,
    NO_GRADIENT,
    evaluate_blocks,
    evaluate_share,
    gather,
    virtual_shifts,
)
from spinmd.potentials.deepspin.kernels_lists import sort_list
from spinmd.potentials.deepspin.model import DeepSpinModel
from spinmd.potentials.deepspin.nets import evaluate
from spinmd.potentials.deepspin.tables import FIRST_OCTAVE, EmbeddingTables, build_tables
from spinmd.protocols import OK, Code, Need, Status

PRECISIONS = {"float64": (np.float64, 8), "float32": (np.float32, 16), "tf32": (np.float32, 16)}
CLOSEST = 0.5  # of the shortest distance seen in training: closer than this the run has diverged


class NetworkPart:
    """The network of a model as a part of ``DeepSpin`` (see there for what a part is).

    tables  the tabulated embedding nets, with the error that was measured when they were made
    atom_energies  (N,) eV of the last call, without the model's shift
    """

    def __init__(self, model: DeepSpinModel, precision: str = "float64"):
        self.model = model
        self.cutoff = float(model.network.cutoff)
        self.signs = 2 if model.time_reversal else 1
        self.dtype, lanes = PRECISIONS[precision]
        self.tables: EmbeddingTables = build_tables(model.network, lanes, self.dtype)
        self._nets = pack_fitting(model.network, lanes, self.dtype)
        self._net = _pack_descriptor(model, self.tables, self.dtype)
        self._reach = 0.0

    # ------------------------------------------------------------------ set-up

    def prepare(self, state, elements: np.ndarray) -> None:
        """Blocks and buffers; ``elements`` (N,) is the element of the model of each atom."""
        model, natoms = self.model, state.natoms
        present = np.unique(elements)
        kinds = present[np.argsort(~model.magnetic[present], kind="stable")]  # magnetic ones first
        kind_of = np.zeros(len(model.elements), dtype=np.int64)
        kind_of[kinds] = np.arange(len(kinds))
        self._kind = kind_of[elements]
        self._eta = np.ascontiguousarray(model.virtual_scale[elements], dtype=np.float64)
        order = np.argsort(elements, kind="stable")
        start, end, element = [], [], []
        for e in present:
            low, high = np.searchsorted(elements[order], [e, e + 1])
            for first in range(low, high, ROWS):
                start.append(first)
                end.append(min(first + ROWS, high))
                element.append(e)
        closest = np.zeros((len(model.elements),) * 2)
        if model.seen is not None:
            seen = np.where(np.isfinite(model.seen.min_distance), model.seen.min_distance, 0.0)
            closest = (CLOSEST * seen) ** 2
        self._atoms = Atoms(
            order.astype(np.int64), np.array(start), np.array(end), np.array(element, dtype=np.int64),
            kinds.astype(np.int64), int(model.magnetic[kinds].sum()), model.virtual_scale != 0.0, closest,
        )  # fmt: skip
        self._shift = aligned_zeros((natoms, 4))
        self._virials = np.zeros((block_count(natoms), 9))
        self._source = None
        self._version = -1
        self._work = None
        self.atom_energies = np.zeros(natoms)
        self._workers = max(1, min(numba.get_num_threads(), len(start)))

    def lists_reach(self, reach: float) -> None:
        """How far (Å) from its atom a virtual atom may be, by how far the lists reach."""
        self._reach = reach

    def _update_list(self, state, pairs) -> None:
        """Sort a list that is new and make room for what it needs."""
        if self._source is pairs.start:
            return
        atoms, net, signs = self._atoms, self._net, self.signs
        self._pairs = sort_list(pairs, state.natoms, self._kind, len(atoms.elements), atoms.magnetic_kinds)
        self._source, self._version = pairs.start, -1
        magnetic = self._pairs.sections[:, atoms.magnetic_kinds].max(initial=0)
        longest = np.diff(self._pairs.start).max(initial=0)
        capacity = (int(longest + 16) + signs * (int(magnetic) + 25)) // 8 * 8
        places, virtual_places = int(self._pairs.start[-1]) + 1, int(self._pairs.magnetic_start[-1]) + 1
        work = self._work
        if work is not None and capacity <= self._capacity and places <= len(work.pulls):
            if virtual_places <= work.virtual_pulls.shape[1]:
                return
        self._capacity = capacity + 16
        self._work = None  # free the old one before the new one is made
        places, virtual_places = places + places // 20, virtual_places + virtual_places // 20
        workers, blocks, a = self._workers, len(atoms.block_start), signs * ROWS * 4 * net.stride
        columns = ROWS * self._capacity
        self._work = Work(
            real=np.zeros(state.natoms * 4 * net.stride, dtype=self.dtype),
            energies=self.atom_energies,
            centre=aligned_zeros((state.natoms, 4)),
            pulls=aligned_zeros((places, 4)),
            virtual_pulls=aligned_zeros((signs, virtual_places, 4)),
            virials=np.zeros((blocks, 9)),
            bad=np.full(blocks, -1, dtype=np.int64),
            block_energies=np.zeros(blocks),
            numbers=np.zeros((workers, NUMBERS * columns + 8), dtype=self.dtype),
            geometry=np.zeros((workers, GEOMETRY * columns + 8)),
            rows=np.zeros((workers, columns + 8), dtype=np.int32),
            places=np.zeros((workers, columns + 8), dtype=np.int32),
            a=np.zeros((workers, a), dtype=self.dtype),
            slopes=np.zeros((workers, a), dtype=self.dtype),
            scratch=np.zeros((workers, scratch_size(self._nets)), dtype=self.dtype),
            sums=np.zeros((workers, max(5 * self._capacity, ROWS) + 8)),
            ends=np.zeros((workers, ROWS, 5), dtype=np.int64),
        )

    # ------------------------------------------------------------------ evaluation

    def add(self, state, pairs, out, need: Need) -> Status:
        """Add energy, forces, fields and virial as far as needed. What depends on positions alone is kept while they stay."""
        longest, atom = virtual_shifts(state.spins, self._eta, self._shift)
        if not longest <= self._reach * self._reach:
            length = np.linalg.norm(state.spins[atom])
            message = (
                f"its spin is {length:.4g} µB long; the neighbour lists were made for up to "
                f"{self._reach / self._eta[atom]:.4g} µB, start again from these spins"
            )
            return Status(Code.DIVERGED, int(state.ids[atom]), "deepspin", message)
        self._update_list(state, pairs)
        work, atoms, signs = self._work, self._atoms, self.signs
        backward = NO_GRADIENT
        if need & (Need.FORCE | Need.VIRIAL):
            backward = EVERYTHING
        elif Need.FIELD in need:
            backward = FIELDS_ONLY
        want_virial = Need.VIRIAL in need
        arguments = (
            self._workers, self._capacity, signs, self._version == pairs.version, backward, want_virial, self._net,
            self._nets, atoms, self._pairs, pairs.packed, self._shift, work,
        )  # fmt: skip
        if self._workers == 1:  # the parallel kernel takes its time and memory to load
            evaluate_share(0, *arguments)
        else:
            evaluate_blocks(*arguments)
        self._version = pairs.version
        energy = float(work.block_energies.sum())
        out.energy[0] += energy
        status = self._check(state, energy)
        if not status.ok or backward == NO_GRADIENT:
            return status
        gather(
            signs, backward, self._eta, state.moments, state.spins, self._pairs, work.pulls, work.virtual_pulls, work.centre,
            Need.FORCE in need, Need.FIELD in need, out.forces, out.fields, self._virials, BLOCK,
        )  # fmt: skip
        if want_virial:
            out.virial += (work.virials.sum(axis=0) + self._virials.sum(axis=0)).reshape(3, 3)
        return OK

    def work_done(self) -> tuple[float, float]:
        """Mean numbers of real and of virtual neighbours per atom within the cutoff, for counts of arithmetic."""
        inside = [
            float(np.any(pulls != 0.0, axis=1).sum()) for pulls in (self._work.pulls, self._work.virtual_pulls[0])
        ]
        return inside[0] / len(self._eta), self.signs * inside[1] / len(self._eta)

    def _check(self, state, energy: float) -> Status:
        """Diverged where atoms are far too close or the energy is not a number."""
        bad = self._work.bad
        if bad.max() >= 0:
            atom = int(bad[bad >= 0][0])
            message = "another atom is closer than half the shortest distance in the training data"
            return Status(Code.DIVERGED, int(state.ids[atom]), "deepspin", message)
        if not np.isfinite(energy):
            atom = int(np.argmin(np.isfinite(self.atom_energies)))
            return Status(Code.DIVERGED, int(state.ids[atom]), "deepspin", "the energy is not a number")
        return OK


def _pack_descriptor(model: DeepSpinModel, tables: EmbeddingTables, dtype) -> Descriptor:
    """Tables, constants of empty slots and scales of a network."""
    network, n = model.network, len(model.elements)
    stride, width = tables.blocks * tables.lanes, network.width
    slots = 2.0 * float(np.sum(network.sel))
    rows, bits = np.full((2 * n, n), -1, dtype=np.int64), np.zeros((2 * n, n), dtype=np.int64)
    constant, empty = np.zeros((n, stride)), np.zeros((2 * n, n, stride))
    for nets, interact in ((network.embedding, True), (network.silent, False)):
        for (kind, c), net in nets.items():
            r = -network.mean[c, 0] / network.std[c, 0]
            one = r / slots * evaluate(net, np.array([[r]]))[0]
            constant[c, :width] += float(network.sel[kind % n]) * one
            if interact:
                empty[kind, c, :width] = one
                rows[kind, c], bits[kind, c] = tables.places[kind, c]
    return Descriptor(
        tables.coefficients, tables.row_length, tables.blocks, tables.lanes, stride, rows, bits,
        constant.ravel().astype(dtype), empty.ravel().astype(dtype), np.ascontiguousarray(network.mean[:, 0]),
        1.0 / (network.std[:, 0] * slots), 1.0 / (network.std[:, 1] * slots), float(network.cutoff),
        float(network.cutoff_smooth), float(network.protection), FIRST_OCTAVE,
    )  # fmt: skip
