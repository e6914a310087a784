"""Initial spins: the [structure.spins] table and the textures it names.

The sites come from ``spinmd.structure``; nothing here reads files. Spins are in µB, and a site of moment zero is
non-magnetic whatever the texture. Wave vectors q are in reciprocal lattice units of the *unit* cell (the prototype or
the file before ``supercell``): the phase of site r is 2π q·f with r = f @ unit cell.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from spinmd.errors import InputError
from spinmd.parameters import Angle, Length, Moment, Parameters, Vector

PLACE = "structure.spins"
TEXTURES = ("ferromagnetic", "antiferromagnetic", "random", "cone", "spiral", "skyrmion", "thermal", "file")


def _finite(value: Vector) -> Vector:
    if not all(math.isfinite(x) for x in value):
        raise PydanticCustomError("vector", "expected three finite numbers")
    return value


def _nonzero(value: Vector) -> Vector:
    if not any(value):
        raise PydanticCustomError("vector", "a direction must not be [0, 0, 0]")
    return value


def _texture(value):
    if not isinstance(value, str) or value in TEXTURES:
        return value
    return nearest(value, TEXTURES, "a spin texture")


def nearest(value: str, known, what: str) -> str:
    """The one of ``known`` that equals ``value`` up to case; otherwise an error that proposes the nearest names."""
    import difflib

    by_case = {name.lower(): name for name in known}
    if value.lower() in by_case:
        return by_case[value.lower()]
    close = difflib.get_close_matches(value.lower(), by_case, n=3, cutoff=0.5)
    choices = [by_case[name] for name in close] or (list(known) if len(known) < 20 else [])
    hint = "; use " + " or ".join(choices) if choices else ""
    raise PydanticCustomError("name", "{value} is not {what}{hint}", {"value": repr(value), "what": what, "hint": hint})


FiniteVector = Annotated[Vector, AfterValidator(_finite)]
Direction = Annotated[Vector, AfterValidator(_finite), AfterValidator(_nonzero)]


class SpinParameters(Parameters):
    """[structure.spins]: which atoms are magnetic, and where their spins point at the start."""

    moments: dict[str, Annotated[Moment, Field(ge=0.0)]] | None = Field(
        None,
        description="Length of the spin of each element; elements not listed are non-magnetic, and without the table "
        "the lengths are those of the file's magmoms.",
    )
    reference_moments: dict[str, Annotated[Moment, Field(gt=0.0)]] | None = Field(
        None,
        description="Constant m_i of each element in e_i = S_i/m_i, where it is not the initial length of the spin.",
    )
    texture: (
        Annotated[
            Literal["ferromagnetic", "antiferromagnetic", "random", "cone", "spiral", "skyrmion", "thermal", "file"],
            BeforeValidator(_texture),
        ]
        | None
    ) = Field(
        None, description="Directions of the spins; default: file where the file has magmoms, otherwise ferromagnetic."
    )
    direction: Direction = Field(
        (0.0, 0.0, 1.0),
        description="Axis of the magnetisation, of the cone and of collinear magmoms; for a spiral the spin of phase "
        "zero, made perpendicular to axis.",
    )
    wavevector: FiniteVector | None = Field(
        None,
        description="Wave vector q of an antiferromagnet (the sign of a spin is that of cos 2πq·r) or of a spiral, "
        "in reciprocal lattice units of the unit cell.",
    )
    sublattices: tuple[Literal[-1, 1], ...] | None = Field(
        None, description="Signs of an antiferromagnet, one for each atom of the unit cell in its order."
    )
    layer_axis: Direction | None = Field(
        None,
        description="An antiferromagnet alternates from one magnetic atomic layer to the next along this Cartesian "
        "direction.",
    )
    layer_tolerance: Annotated[Length, Field(gt=0.0)] = Field(
        0.3,
        description="Magnetic atoms belong to one layer while their heights follow each other in steps of at most "
        "this length.",
    )
    angle: Annotated[Angle, Field(ge=0.0, le=180.0)] | None = Field(
        None,
        description="Angle between each spin and direction (cone), or between each spin and axis (spiral, default 90).",
    )
    cone_phase: Literal["random", "uniform"] = Field(
        "random", description="Azimuth of the spins of a cone: random for each atom, or the same for all."
    )
    wavelength: Annotated[Length, Field(gt=0.0)] | None = Field(
        None, description="Wavelength of a spiral along propagation, instead of wavevector."
    )
    propagation: Direction | None = Field(
        None, description="Cartesian direction in which a spiral given by wavelength runs."
    )
    axis: Direction | None = Field(
        None,
        description="Cartesian axis about which the spins of a spiral turn; default: the direction of its wave "
        "vector (a helix).",
    )
    radius: Annotated[Length, Field(gt=0.0)] | None = Field(
        None,
        description="Radius of a skyrmion: spins turn evenly, from against direction in the centre to along direction "
        "from here on.",
    )
    center: tuple[float, float, float] | None = Field(
        None, description="Centre of a skyrmion in fractions of the supercell; default: its middle."
    )
    helicity: Annotated[Angle, Field(ge=-180.0, le=180.0)] = Field(
        0.0,
        description="Of a skyrmion: 0, its spins turn outwards (Neel, hedgehog); 90 and -90, around the centre (Bloch); "
        "180, inwards.",
    )
    vorticity: Literal[-2, -1, 1, 2] = Field(
        1, description="Turns of the spins on a way around the centre of a skyrmion; -1 makes an antiskyrmion."
    )
    magnetisation: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        None,
        description="Mean of e·direction of a thermal texture, whose directions have the probability density "
        "∝ exp(κ e·direction).",
    )

    @model_validator(mode="after")
    def _consistent(self):
        shaping = self.model_fields_set - {"moments", "reference_moments", "texture", "direction"}

        def refuse(text, **names):
            raise PydanticCustomError("spins", text, names)

        if self.texture is None and shaping:
            refuse("{name} is given but texture is not; say which texture it describes", name=min(shaping))
        if self.texture == "antiferromagnetic":
            ways = [name for name in ("wavevector", "sublattices", "layer_axis") if getattr(self, name) is not None]
            if len(ways) != 1:
                refuse(
                    "an antiferromagnetic texture needs exactly one of wavevector = [h, k, l], sublattices = "
                    "[1, -1, ...] and layer_axis = [x, y, z], got {ways}",
                    ways=" and ".join(ways) or "none",
                )
        if self.texture == "cone" and self.angle is None:
            refuse("a cone texture needs angle, for example angle = 40")
        if self.texture == "thermal" and self.magnetisation is None:
            refuse("a thermal texture needs magnetisation, the mean of e·direction, for example magnetisation = 0.8")
        if self.texture == "skyrmion" and self.radius is None:
            refuse("a skyrmion texture needs radius, for example radius = 20")
        if self.texture == "spiral":
            by_length = (self.wavelength is not None) + (self.propagation is not None)
            if by_length == 1 or (by_length == 2) == (self.wavevector is not None):
                refuse(
                    "a spiral needs either wavevector = [h, k, l], or wavelength together with propagation = [x, y, z]"
                )
            if self.wavevector is not None and not any(self.wavevector):
                refuse("the wavevector of a spiral must not be [0, 0, 0]")
        return self


@dataclass
class Sites:
    """What a texture may know of a structure.

    positions   (N, 3) Å from the origin of the unit cell
    unit        (3, 3) Å, rows are the unit cell's vectors
    repeats     (3,) unit cells along each of them
    pbc         (3,) bool, of the supercell
    basis       (N,) index of each atom in its unit cell, which has ``basis_size`` atoms
    species     (N,) index into ``symbols``
    declared    every element that the deck or the file names
    magmoms     (N,) or (N, 3) µB of the file, or None
    moments     (N,) µB, reference moments of a run's file, or None
    """

    positions: np.ndarray
    unit: np.ndarray
    repeats: tuple[int, int, int]
    pbc: np.ndarray
    basis: np.ndarray
    basis_size: int
    species: np.ndarray
    symbols: tuple[str, ...]
    declared: frozenset[str]
    magmoms: np.ndarray | None = None
    moments: np.ndarray | None = None

    def name(self, atom: int) -> str:
        return f"atom {atom} ({self.symbols[self.species[atom]]})"


def build_spins(parameters: SpinParameters, sites: Sites, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Spins (N, 3) and reference moments (N,), both in µB. Raises InputError at ``structure.spins.*``."""
    texture = parameters.texture or ("file" if sites.magmoms is not None else "ferromagnetic")
    if texture == "file" and sites.magmoms is None:
        raise InputError(
            "there are no magmoms in the file; name another texture, such as ferromagnetic or random",
            f"{PLACE}.texture",
        )
    lengths = _lengths(parameters, sites)
    kept = sites.moments is not None and parameters.moments is None
    moments = sites.moments.copy() if kept else lengths.copy()
    if parameters.reference_moments is not None:
        moments = by_element(parameters.reference_moments, sites, f"{PLACE}.reference_moments", default=moments)
        moments[lengths == 0.0] = 0.0
    spins = np.zeros((len(lengths), 3))
    if (lengths > 0.0).any():
        spins = _DIRECTIONS[texture](parameters, sites, lengths > 0.0, rng)
        spins *= lengths[:, None]
    if texture == "file" and sites.magmoms.ndim == 2 and parameters.moments is None:
        spins = sites.magmoms.copy()  # as they are, without the rounding of a division by their length
    return spins, moments


def by_element(table: dict, sites: Sites, place: str, default) -> np.ndarray:
    """(N,) what ``table`` gives to each atom's element; ``default`` (a number or (N,)) for elements not listed."""
    unknown = sorted(set(table) - sites.declared)
    if unknown:
        raise InputError(
            f"there is no {unknown[0]} in the structure, which holds {', '.join(sorted(sites.declared))}",
            f"{place}.{unknown[0]}",
        )
    result = np.array(np.broadcast_to(default, sites.species.shape), dtype=np.float64)
    for index, symbol in enumerate(sites.symbols):
        if symbol in table:
            result[sites.species == index] = table[symbol]
    return result


def _lengths(parameters: SpinParameters, sites: Sites) -> np.ndarray:
    if parameters.moments is not None:
        return by_element(parameters.moments, sites, f"{PLACE}.moments", default=0.0)
    if sites.magmoms is not None:
        return np.abs(sites.magmoms) if sites.magmoms.ndim == 1 else np.linalg.norm(sites.magmoms, axis=1)
    if parameters.texture is not None or parameters.reference_moments is not None:
        element = min(sites.declared)
        raise InputError(f"give the moments in µB, for example moments = {{ {element} = 2.2 }}", f"{PLACE}.moments")
    return np.zeros(len(sites.positions))


def unit_vector(vector) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float64)
    vector = vector / np.abs(vector).max()  # so that no square under- or overflows
    return vector / np.linalg.norm(vector)


def frame(axis, hint=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right-handed orthonormal u, v, n: n along ``axis``, u as near as can be to ``hint``, else to a Cartesian axis."""
    n = unit_vector(axis)
    u = np.zeros(3) if hint is None else unit_vector(hint) - (unit_vector(hint) @ n) * n
    if np.linalg.norm(u) < 1e-6:
        u = np.zeros(3)
        u[np.argmin(np.abs(n))] = 1.0
        u -= (u @ n) * n
    u = unit_vector(u)
    return u, np.cross(n, u), n


def _around(axes, cosine, azimuth) -> np.ndarray:
    """(N, 3) unit vectors with e·n = ``cosine`` and the given azimuth from u towards v; either may be a number."""
    u, v, n = axes
    cosine = np.asarray(cosine, dtype=np.float64)
    sine = np.sqrt(np.maximum((1.0 - cosine) * (1.0 + cosine), 0.0))
    return (sine * np.cos(azimuth))[:, None] * u + (sine * np.sin(azimuth))[:, None] * v + np.multiply.outer(cosine, n)


def _ferromagnetic(parameters, sites, magnetic, rng):
    return np.tile(unit_vector(parameters.direction), (len(magnetic), 1))


def _antiferromagnetic(parameters, sites, magnetic, rng):
    if parameters.wavevector is not None:
        signs = _signs_by_wavevector(parameters, sites, magnetic)
    elif parameters.sublattices is not None:
        if len(parameters.sublattices) != sites.basis_size:
            raise InputError(
                f"{len(parameters.sublattices)} signs are given for the {sites.basis_size} atoms of the unit cell",
                f"{PLACE}.sublattices",
            )
        signs = np.array(parameters.sublattices, dtype=np.float64)[sites.basis]
    else:
        signs = _signs_by_layer(parameters, sites, magnetic)
    return signs[:, None] * unit_vector(parameters.direction)


def _signs_by_wavevector(parameters, sites, magnetic):
    q = np.array(parameters.wavevector)
    _warn_misfit(q, sites, "wavevector")
    cosine = np.cos(2.0 * np.pi * (sites.positions @ np.linalg.solve(sites.unit, q)))
    undecided = magnetic & (np.abs(cosine) < 1e-3)
    if undecided.any():
        atom = int(np.argmax(undecided))
        raise InputError(
            f"cos 2πq·r vanishes at {sites.name(atom)}, which gives its spin no sign; choose another wave vector, or "
            f"sublattices or layer_axis",
            f"{PLACE}.wavevector",
        )
    return np.where(cosine < 0.0, -1.0, 1.0)


def _signs_by_layer(parameters, sites, magnetic):
    heights = sites.positions @ unit_vector(parameters.layer_axis)
    atoms = np.flatnonzero(magnetic)
    atoms = atoms[np.argsort(heights[atoms], kind="stable")]
    layer = np.concatenate([[0], np.cumsum(np.diff(heights[atoms]) > parameters.layer_tolerance)])
    if layer[-1] == 0:
        raise InputError(
            "all magnetic atoms lie in one layer; choose another layer_axis, a smaller layer_tolerance or a larger "
            "supercell",
            f"{PLACE}.layer_axis",
        )
    signs = np.ones(len(magnetic))
    signs[atoms] = 1.0 - 2.0 * (layer % 2)
    return signs


def _random(parameters, sites, magnetic, rng):
    cosine = rng.uniform(-1.0, 1.0, len(magnetic))
    return _around(frame(parameters.direction), cosine, rng.uniform(0.0, 2.0 * np.pi, len(magnetic)))


def _cone(parameters, sites, magnetic, rng):
    azimuth = np.zeros(len(magnetic))
    if parameters.cone_phase == "random":
        azimuth = rng.uniform(0.0, 2.0 * np.pi, len(magnetic))
    cosine = np.full(len(magnetic), math.cos(math.radians(parameters.angle)))
    return _around(frame(parameters.direction), cosine, azimuth)


def _spiral(parameters, sites, magnetic, rng):
    if parameters.wavevector is not None:
        q = np.array(parameters.wavevector)
        cartesian = np.linalg.solve(sites.unit, q)  # q·r/2π with r in Å
        _warn_misfit(q, sites, "wavevector")
    else:
        cartesian = unit_vector(parameters.propagation) / parameters.wavelength
        _warn_misfit(sites.unit @ cartesian, sites, "wavelength")
    axes = frame(cartesian if parameters.axis is None else parameters.axis, parameters.direction)
    angle = 90.0 if parameters.angle is None else parameters.angle
    cosine = np.full(len(magnetic), 0.0 if angle == 90.0 else math.cos(math.radians(angle)))
    return _around(axes, cosine, 2.0 * np.pi * (sites.positions @ cartesian))


def _skyrmion(parameters, sites, magnetic, rng):
    """n(ρ, φ) with polar angle π (1 − ρ/R) to direction and azimuth vorticity φ + helicity; ρ, φ about the centre.

    In periodic directions the nearest image of the centre counts.
    """
    axes = frame(parameters.direction)
    u, v, _ = axes
    cell = sites.unit * np.array(sites.repeats)[:, None]
    center = np.full(3, 0.5) if parameters.center is None else np.array(parameters.center)
    fractional = sites.positions @ np.linalg.inv(cell) - center
    fractional -= np.where(sites.pbc, np.rint(fractional), 0.0)
    away = fractional @ cell
    x, y = away @ u, away @ v
    polar = np.pi * np.maximum(1.0 - np.hypot(x, y) / parameters.radius, 0.0)
    azimuth = parameters.vorticity * np.arctan2(y, x) + math.radians(parameters.helicity)
    return _around(axes, np.cos(polar), azimuth)


def _thermal(parameters, sites, magnetic, rng):
    cosine = sample_cosines(langevin_inverse(parameters.magnetisation), rng.random(len(magnetic)))
    return _around(frame(parameters.direction), cosine, rng.uniform(0.0, 2.0 * np.pi, len(magnetic)))


def _file(parameters, sites, magnetic, rng):
    magmoms = sites.magmoms
    sizes = np.abs(magmoms) if magmoms.ndim == 1 else np.linalg.norm(magmoms, axis=1)
    undirected = magnetic & (sizes == 0.0)
    if undirected.any():
        raise InputError(
            f"{sites.name(int(np.argmax(undirected)))} is magnetic by structure.spins.moments but has no moment in "
            f"the file, so no direction",
            f"{PLACE}.texture",
        )
    if magmoms.ndim == 1:
        return np.sign(magmoms)[:, None] * unit_vector(parameters.direction)
    return magmoms / np.where(sizes > 0.0, sizes, 1.0)[:, None]


_DIRECTIONS = {
    "ferromagnetic": _ferromagnetic,
    "antiferromagnetic": _antiferromagnetic,
    "random": _random,
    "cone": _cone,
    "spiral": _spiral,
    "skyrmion": _skyrmion,
    "thermal": _thermal,
    "file": _file,
}


def _warn_misfit(q, sites: Sites, name: str) -> None:
    """Warn where a periodic supercell holds no whole number of wavelengths."""
    turns = np.asarray(q) * sites.repeats
    misfit = (np.abs(turns - np.rint(turns)) > 1e-3) & sites.pbc
    if misfit.any():
        k = int(np.argmax(misfit))
        warnings.warn(
            f"{PLACE}.{name}: the wave makes {turns[k]:.4g} turns along periodic direction {k} of the supercell, "
            "not a whole number: the texture has a fault at the boundary",
            stacklevel=2,
        )


def langevin(kappa: float) -> float:
    """L(κ) = coth κ − 1/κ, the mean of cos θ under the density exp(κ cos θ) on the sphere."""
    if kappa < 1e-2:
        return kappa / 3.0 - kappa**3 / 45.0 + 2.0 * kappa**5 / 945.0
    return 1.0 / math.tanh(kappa) - 1.0 / kappa


def langevin_inverse(mean: float) -> float:
    """κ with L(κ) = ``mean`` in [0, 1), by bisection to the last bit; L(κ) >= 1 − 1/κ gives the upper bound."""
    if mean == 0.0:
        return 0.0
    low, high = 0.0, 3.0 / (1.0 - mean)
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return middle
        low, high = (middle, high) if langevin(middle) < mean else (low, middle)


def sample_cosines(kappa: float, uniform: np.ndarray) -> np.ndarray:
    """cos θ with density ∝ exp(κ cos θ) from uniform numbers in [0, 1), by inverting the distribution function."""
    if kappa < 1e-12:
        return 1.0 - 2.0 * uniform
    return np.clip(1.0 + np.log1p(uniform * math.expm1(-2.0 * kappa)) / kappa, -1.0, 1.0)
