"""The classical prior of a DeepSPIN model: what it is, its basis, its coefficients. No fit and no evaluation over lists.

    E = Σ_i [ Σ_j core_ab(r)/2 + Σ_j Σ_t f_t(r) g_t + Σ_p l_p n_i^p + Σ_groups Σ_components xᵀ Q x ]

i is an atom of element a, j a neighbour of element b at d = R_j − R_i, r = |d| < cutoff, u = d/r. With m the reference
moment of an element, ŝ = S/m, n = |ŝ|² and c = ŝ_i·ŝ_j; the energy (eV) is even in the spins and does not change if
all spins, or the whole lattice, are rotated on their own. It is linear in its coefficients, apart from the core.

basis   φ_k(r) = T_k(x) (1 − (r/cutoff)²)³, k = 0, 1, ..., T_k Chebyshev polynomials, x = 2 ρ(r)/ρ(cutoff) − 1,
        ρ' = 1 for r > r1, 0 for r < r0 = r1 − core_width, quintic smoothstep in between; ρ(r0) = 0. r1 is the shortest
        distance of that pair of elements in the training data: where there was no data there is no wild polynomial.
core    the universal repulsion of Ziegler, Biersack and Littmark (The Stopping and Range of Ions in Solids, 1985) for
        r < r1, times 1 − smoothstep (three continuous derivatives) from r0 to r1: atoms stay apart. It is not fitted.
pair    f_t = Σ_k coefficient_tk φ_k, k < pair_functions, for each ordered pair of elements (a, b) and each term t:
        g_t = 1 ("1"), c ("c"), n_j ("n"), c² ("c2"), n_i n_j ("nn"), n_j² ("n2"), c n_j ("cn")
Landau  powers n, n², n³, n⁴ of each magnetic element
many-body  x holds sums over the neighbours of i, for each element b and k < many_body_functions:
        L0  Σ φ_k × {1, c, n_j}, and n_i                1 component
        L1  Σ φ_k u × {1, c, n_j}                       3 components
        L2  Σ φ_k (uu − 1/3) × {1, c}                   5 components (orthonormal, so that xᵀx is the full contraction)
        S0  Σ φ_k ŝ_j                                   3 components
        Q is symmetric; its coefficients are Q_pp and 2 Q_pq, p < q (row by row); n_i n_i is a Landau term and left out.

What would be zero for want of magnetic elements is left out.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spinmd.backend import aligned_zeros
from spinmd.errors import InputError

from numba import njit  # isort: skip  (after spinmd.backend, which sets the cache folder)

from spinmd.simd import larger

TERMS = ("1", "c", "n", "c2", "nn", "n2", "cn")
GROUPS = {"L0": ("1", "c", "n"), "L1": ("1", "c", "n"), "L2": ("1", "c"), "S0": ("s",)}
COMPONENTS = {"L0": 1, "L1": 3, "L2": 5, "S0": 3}
LANDAU = 4
MOST_FUNCTIONS = 8  # of the many-body part: they fill one vector of the inference kernels

DEFAULTS: dict[str, Any] = {
    "cutoff": 5.0,
    "pair_functions": 14,
    "many_body": True,
    "many_body_functions": 8,
    "many_body_l": 2,
    "terms": list(TERMS),
    "landau": True,
    "core": True,
    "core_width": 0.5,
}
_NEEDED = ("elements", "magnetic", "reference_moment", "shortest", "atomic_numbers")

COULOMB = 14.3996454784  # e²/4πε0, eV Å
BOHR = 0.529177210544  # Å
_ZBL = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


# ------------------------------------------------------------------ laws: of numbers, and of vectors of eight numbers


@njit(cache=True)
def mapped_distance(r, r1, width):
    """ρ(r) in Å and ρ'(r); ρ(r1) = width/2."""
    t = larger((r - r1) * (1.0 / width) + 1.0, 0.0)
    t = -larger(-t, -1.0)
    t3 = t * t * t
    rho = width * (t3 * t * (2.5 + t * (t - 3.0))) + larger(r - r1, 0.0)
    return rho, t3 * (10.0 + t * (6.0 * t - 15.0))


@njit(cache=True)
def cutoff_factor(r, cutoff):
    """(1 − (r/cutoff)²)³ and its derivative (1/Å); zero from the cutoff on."""
    inverse = 1.0 / (cutoff * cutoff)
    q = larger(1.0 - r * r * inverse, 0.0)
    return q * q * q, (-6.0 * inverse) * r * (q * q)


@njit(cache=True)
def scaled_distance(r, r1, width, cutoff):
    """x(r), between −1 and 1, and dx/dr (1/Å)."""
    scale = 2.0 / (cutoff - r1 + 0.5 * width)
    rho, slope = mapped_distance(r, r1, width)
    return scale * rho - 1.0, scale * slope


@njit(cache=True)
def radial_functions(r, r1, width, cutoff, value, slope):
    """φ_k(r) to ``value`` and φ_k'(r), 1/Å, to ``slope``, k = 0 ... len(value) − 1, of one distance."""
    x, dx = scaled_distance(r, r1, width, cutoff)
    f, df = cutoff_factor(r, cutoff)
    t0, t1, d0, d1 = 1.0, x, 0.0, 1.0  # T_k, T_{k+1} and their derivatives
    for k in range(len(value)):
        value[k] = t0 * f
        slope[k] = d0 * dx * f + t0 * df
        t0, t1, d0, d1 = t1, 2.0 * x * t1 - t0, d1, 2.0 * (t1 + x * d1) - d0


@njit(cache=True)
def core_repulsion(r, r1, width, charge, length):
    """Energy of a pair at distance r (eV) and its derivative (eV/Å); zero from r1 on.

    charge = Z_a Z_b e²/4πε0 in eV Å, length = 0.8854 a0/(Z_a^0.23 + Z_b^0.23) in Å.
    """
    if r >= r1:
        return 0.0, 0.0
    screen, slope = 0.0, 0.0
    for amplitude, decay in _ZBL:
        e = amplitude * math.exp(-decay * r / length)
        screen += e
        slope -= e * decay / length
    energy = charge * screen / r
    force = charge * slope / r - energy / r
    t = 1.0 - (r - r1 + width) / width  # 1 at r0, 0 at r1
    if t < 1.0:
        t3 = t * t * t
        switch = t3 * t * (35.0 + t * (-84.0 + t * (70.0 - 20.0 * t)))
        switch_slope = -140.0 * t3 * (1.0 - t) ** 3 / width
        force = force * switch + energy * switch_slope
        energy *= switch
    return energy, force


# ------------------------------------------------------------------ settings and coefficients


@dataclass(frozen=True)
class Block:
    """Some consecutive coefficients.

    kind   "pair" (element = a, other = b, name = term), "landau" (element) or "many-body" (element, name = group)
    first, size   where they are in the flat vector
    """

    kind: str
    element: int
    other: int
    name: str
    first: int
    size: int

    @property
    def where(self) -> slice:
        return slice(self.first, self.first + self.size)


class Prior:
    """A prior: settings that can be written as JSON, and arrays.

    settings  elements, magnetic (bool each), reference_moment (µB each), atomic_numbers, shortest (r1, Å, one row per
              element; symmetric), and what DEFAULTS has: cutoff (Å), pair_functions, many_body, many_body_functions,
              many_body_l (0, 1 or 2: the highest L), terms (some of TERMS), landau, core, core_width (Å)
    arrays    {"coefficients": (count,) float64, eV}, in the order of ``blocks``; zeros if absent

    Raises InputError for settings that make no sense and for a wrong number of coefficients.
    """

    def __init__(self, settings: dict[str, Any], arrays: dict[str, np.ndarray] | None = None):
        self.settings = check_settings(settings)
        values = self.settings
        self.elements = tuple(values["elements"])
        self.magnetic = np.array(values["magnetic"], dtype=bool)
        self.reference_moment = np.array(values["reference_moment"], dtype=np.float64)
        self.shortest = np.array(values["shortest"], dtype=np.float64)
        self.cutoff = float(values["cutoff"])
        self.width = float(values["core_width"])
        unknown = set(arrays or {}) - {"coefficients"}
        if unknown:
            raise InputError(f"unknown array {sorted(unknown)[0]!r}; a prior has coefficients only", "prior")
        coefficients = (arrays or {}).get("coefficients")
        if coefficients is None:
            coefficients = np.zeros(self.count)
        coefficients = np.array(coefficients, dtype=np.float64)
        if coefficients.shape != (self.count,):
            raise InputError(
                f"has shape {coefficients.shape}, its settings call for ({self.count},)", "prior.coefficients"
            )
        if not np.isfinite(coefficients).all():
            raise InputError("holds a value that is not finite", "prior.coefficients")
        coefficients.flags.writeable = False
        self.arrays = {"coefficients": coefficients}

    @property
    def coefficients(self) -> np.ndarray:
        """(count,) eV, read-only; ``with_coefficients`` makes a prior with others."""
        return self.arrays["coefficients"]

    def with_coefficients(self, vector) -> "Prior":
        """The same prior with other coefficients (count,)."""
        return Prior(self.settings, {"coefficients": vector})

    @property
    def count(self) -> int:
        """Number of coefficients."""
        return self.blocks[-1].first + self.blocks[-1].size if self.blocks else 0

    @cached_property
    def blocks(self) -> list[Block]:
        """The coefficients in order: all pairs (a, b) with their terms, Landau terms, many-body groups by element."""
        settings, blocks = self.settings, []
        n = len(self.elements)

        def add(kind, a, b, name, size):
            first = blocks[-1].first + blocks[-1].size if blocks else 0
            if size:
                blocks.append(Block(kind, a, b, name, first, size))

        for a in range(n):
            for b in range(n):
                for term in TERMS:
                    if term in settings["terms"] and self._acts(term, a, b):
                        add("pair", a, b, term, settings["pair_functions"])
        for a in range(n):
            if settings["landau"] and self.magnetic[a]:
                add("landau", a, -1, "landau", LANDAU)
        if settings["many_body"]:
            for a in range(n):
                for group in self.groups:
                    add("many-body", a, -1, group, len(self.products(a, group)[0]))
        return blocks

    def _acts(self, factor: str, a: int, b: int) -> bool:
        """Whether a factor can differ from zero for a centre of element a and a neighbour of element b."""
        if factor == "1":
            return True
        return bool(self.magnetic[b] and (self.magnetic[a] or factor in ("n", "n2", "s")))

    @property
    def groups(self) -> tuple[str, ...]:
        """The many-body groups in use."""
        if not self.settings["many_body"]:
            return ()
        names = ("L0", "L1", "L2")[: self.settings["many_body_l"] + 1]
        return (*names, "S0") if self.magnetic.any() else names

    def features(self, a: int, group: str) -> tuple[np.ndarray, int]:
        """Where the sums of a group of a centre of element a are in x: offsets (n, number of factors), −1 where there
        is no such sum; and the length of x. n_i, in L0 of a magnetic element, is x[0]."""
        factors = GROUPS[group]
        offsets = np.full((len(self.elements), len(factors)), -1, dtype=np.int64)
        at = 1 if group == "L0" and self.magnetic[a] else 0
        for b in range(len(self.elements)):
            for s, factor in enumerate(factors):
                if self._acts(factor, a, b):
                    offsets[b, s] = at
                    at += self.settings["many_body_functions"]
        return offsets, at

    def products(self, a: int, group: str) -> tuple[np.ndarray, np.ndarray]:
        """Indices p, q into x of the coefficients of a group, p ≤ q."""
        p, q = np.triu_indices(self.features(a, group)[1])
        if group == "L0" and self.magnetic[a]:
            return p[1:], q[1:]
        return p, q

    def form(self, a: int, group: str) -> np.ndarray:
        """Q, symmetric, of a group of the centres of element a; eV."""
        size = self.features(a, group)[1]
        matrix = np.zeros((size, size))
        block = next((b for b in self.blocks if (b.kind, b.element, b.name) == ("many-body", a, group)), None)
        if block is not None:
            p, q = self.products(a, group)
            np.add.at(matrix, (p, q), 0.5 * self.coefficients[block.where])
            np.add.at(matrix, (q, p), 0.5 * self.coefficients[block.where])
        return matrix

    def pair_coefficients(self) -> np.ndarray:
        """(n, n, len(TERMS), pair_functions) eV, zero for terms that are not there."""
        n = len(self.elements)
        result = np.zeros((n, n, len(TERMS), self.settings["pair_functions"]))
        for block in self.blocks:
            if block.kind == "pair":
                result[block.element, block.other, TERMS.index(block.name)] = self.coefficients[block.where]
        return result

    def landau_coefficients(self) -> np.ndarray:
        """(n, 4) eV: factors of n, n², n³, n⁴."""
        result = np.zeros((len(self.elements), LANDAU))
        for block in self.blocks:
            if block.kind == "landau":
                result[block.element] = self.coefficients[block.where]
        return result

    def core_parameters(self) -> np.ndarray:
        """(n, n, 4): r1 and core_width in Å, charge in eV Å (0 without a core) and screening length in Å."""
        z = np.array(self.settings["atomic_numbers"], dtype=np.float64)
        result = aligned_zeros((len(z), len(z), 4))
        result[..., 0], result[..., 1] = self.shortest, self.width
        result[..., 2] = COULOMB * z[:, None] * z[None] if self.settings["core"] else 0.0
        result[..., 3] = 0.8854 * BOHR / (z[:, None] ** 0.23 + z[None] ** 0.23)
        return result

    def __repr__(self) -> str:
        return f"Prior({', '.join(self.elements)}; {self.count} coefficients, cutoff {self.cutoff:g} Å)"


def invariant_count(prior: Prior, element: int) -> int:
    """Length of z, the invariants of a centre of an element: the L0 sums, then the products x_p x_q, p ≤ q, summed over
    components, of each other group in the order of ``prior.groups``."""
    total = prior.features(element, "L0")[1]
    return total + sum(len(np.triu_indices(prior.features(element, g)[1])[0]) for g in prior.groups[1:])


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A complete copy of the settings in plain Python types; InputError with the place for what makes no sense."""
    for name in settings:
        if name not in DEFAULTS and name not in _NEEDED:
            raise InputError(f"there is no such setting; use {', '.join((*_NEEDED, *DEFAULTS))}", f"prior.{name}")
    for name in _NEEDED:
        if name not in settings:
            raise InputError("this setting is missing", f"prior.{name}")
    values = {**DEFAULTS, **settings}
    elements = [str(symbol) for symbol in values["elements"]]
    n = len(elements)
    if n == 0 or len(set(elements)) != n:
        raise InputError(f"expected a list of different elements, got {elements}", "prior.elements")
    try:
        result: dict[str, Any] = {
            "elements": elements,
            "magnetic": [bool(x) for x in values["magnetic"]],
            "reference_moment": [float(x) for x in values["reference_moment"]],
            "atomic_numbers": [int(x) for x in values["atomic_numbers"]],
            "shortest": np.asarray(values["shortest"], dtype=np.float64).tolist(),
            "terms": [term for term in TERMS if term in list(values["terms"])],
        }
        for name in ("cutoff", "core_width"):
            result[name] = float(values[name])
        for name in ("pair_functions", "many_body_functions", "many_body_l"):
            result[name] = int(values[name])
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", "prior") from None
    for name in ("many_body", "landau", "core"):
        if not isinstance(values[name], (bool, np.bool_)):
            raise InputError(f"expected true or false, got {values[name]!r}", f"prior.{name}")
        result[name] = bool(values[name])
    unknown = [term for term in values["terms"] if term not in TERMS]
    if unknown:
        raise InputError(f"there is no term {unknown[0]!r}; use some of {', '.join(TERMS)}", "prior.terms")
    for name in ("magnetic", "reference_moment", "atomic_numbers", "shortest"):
        if len(result[name]) != n:
            raise InputError(f"has {len(result[name])} entries for {n} elements", f"prior.{name}")
    shortest = np.array(result["shortest"])
    if shortest.shape != (n, n) or not np.isfinite(shortest).all() or not np.array_equal(shortest, shortest.T):
        raise InputError(f"expected a symmetric table of {n} × {n} distances in Å", "prior.shortest")
    if not (np.isfinite(result["cutoff"]) and shortest.max() < result["cutoff"]):
        raise InputError(
            f"{result['cutoff']:g} Å is not beyond the shortest distance of each pair of elements, up to "
            f"{shortest.max():g} Å; choose a larger cutoff",
            "prior.cutoff",
        )
    if not 0.0 < result["core_width"] < shortest.min():
        raise InputError(
            f"must lie between 0 and the shortest distance, {shortest.min():g} Å, got {result['core_width']:g}",
            "prior.core_width",
        )
    for moment, magnetic, symbol in zip(result["reference_moment"], result["magnetic"], elements, strict=True):
        if magnetic and not (np.isfinite(moment) and moment > 0.0):
            raise InputError(f"must be positive for {symbol}, got {moment:g} µB", "prior.reference_moment")
    if min(result["atomic_numbers"]) < 1:
        raise InputError("atomic numbers are positive", "prior.atomic_numbers")
    if result["pair_functions"] < 1:
        raise InputError(f"must be at least 1, got {result['pair_functions']}", "prior.pair_functions")
    if not 1 <= result["many_body_functions"] <= MOST_FUNCTIONS:
        raise InputError(
            f"must lie between 1 and {MOST_FUNCTIONS}, got {result['many_body_functions']}", "prior.many_body_functions"
        )
    if not 0 <= result["many_body_l"] <= 2:
        raise InputError(f"must be 0, 1 or 2, got {result['many_body_l']}", "prior.many_body_l")
    return result
