"""Spins on the lattice of unit cells that they live on: fast sums over all of its translations by Fourier transforms.

A run's atoms stand on ideal sites, site b of the unit cell in cell (n1, n2, n3). ``MomentGrid`` finds both for each atom, puts the
vectors of a frame on that grid (zero where an atom is missing or not magnetic), and transforms them. Spin correlations and the
static structure factor come from the same transform.
"""

import numpy as np

from spinmd.analysis.conditions import supercell, unit_cell
from spinmd.analysis.sublattices import unit_cell_sites
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

MOST_SITES = 64  # of a unit cell; its square counts pairs of sites


class MomentGrid:
    """unit (3, 3) Å, rows are lattice vectors; shape (3,) cells; sites (sites, 3) fractional; natoms of the magnetic atoms in use.

    trajectory  whole frames are not needed: only its sites, cell and moments are looked at
    element     only its atoms; None: all magnetic ones

    InputError for a run that is not periodic, whose unit cell is too large, or whose atoms do not fill a lattice once.
    """

    def __init__(self, trajectory: Trajectory, element: str | None = None):
        place = str(trajectory.path)
        if not trajectory.pbc.all():
            open_ = ", ".join("abc"[k] for k in np.flatnonzero(~trajectory.pbc))
            raise InputError(
                f"the cell is not periodic along {open_}; correlations on the lattice and S(q) need a periodic cell",
                place,
            )
        if element is not None:
            trajectory = trajectory.select(elements=element)
        chosen = trajectory.moments > 0.0
        if not chosen.any():
            raise InputError(
                f"no {element + ' ' if element else ''}atoms carry a magnetic moment; this analysis needs spins", place
            )
        self.part = trajectory.select(indices=chosen)
        self.unit, self.shape = unit_cell(trajectory), supercell(trajectory)
        index, self.sites, cells = unit_cell_sites(self.part)
        if len(self.sites) > MOST_SITES:
            raise InputError(
                f"its unit cell has {len(self.sites)} magnetic sites, more than {MOST_SITES}: build the run from a small unit cell "
                "with structure.supercell",
                place,
            )
        cells = np.mod(cells, self.shape)
        self.place = np.ravel_multi_index((index, *cells.T), (len(self.sites), *self.shape))
        if len(np.unique(self.place)) < len(self.place):
            raise InputError("two atoms have one ideal site; this analysis needs a lattice", place)
        self.moments = self.part.moments
        self.natoms = self.part.natoms
        self.occupied = np.zeros(len(self.sites) * int(np.prod(self.shape)))
        self.occupied[self.place] = 1.0

    def grid(self, vectors: np.ndarray) -> np.ndarray:
        """(frames, N, 3) vectors of the atoms on the grid: (frames, 3, sites, n1, n2, n3)."""
        frames = len(vectors)
        values = np.zeros((frames, 3, len(self.occupied)))
        values[:, :, self.place] = vectors.transpose(0, 2, 1)
        return values.reshape(frames, 3, len(self.sites), *self.shape)

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        """(frames, 3, sites, n1, n2, n3) complex: Σ_cells v exp(−2πi h·n), h = k/shape on the grid."""
        return np.fft.fftn(self.grid(vectors), axes=(3, 4, 5))

    def directions(self, spins: np.ndarray) -> np.ndarray:
        """e = S/m of (frames, N, 3) spins in µB."""
        return spins.astype(np.float64, copy=False) / self.moments[:, None]

    def pair_counts(self) -> np.ndarray:
        """(sites, sites, n1, n2, n3) how many pairs of occupied places there are at each translation."""
        occupied = np.fft.fftn(self.occupied.reshape(len(self.sites), *self.shape), axes=(1, 2, 3))
        return np.rint(np.fft.ifftn(occupied.conj()[:, None] * occupied[None], axes=(2, 3, 4)).real)

    def separations(self) -> np.ndarray:
        """(sites, sites, n1, n2, n3, 3) Å, the shortest of all periodic images of each vector from site b to b' of another cell."""
        steps = np.stack(np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij"), axis=-1)
        fractional = steps + (self.sites[None, :] - self.sites[:, None])[:, :, None, None, None, :]
        fractional = (fractional + 0.5 * self.shape) % self.shape - 0.5 * self.shape
        whole = self.shape[:, None] * self.unit
        vectors = fractional @ self.unit
        best, least = vectors.copy(), np.einsum("...a,...a->...", vectors, vectors)
        for shift in np.ndindex(3, 3, 3):
            moved = vectors + (np.array(shift) - 1) @ whole
            size = np.einsum("...a,...a->...", moved, moved)
            nearer = size < least - 1.0e-9
            best[nearer], least[nearer] = moved[nearer], size[nearer]
        return best
