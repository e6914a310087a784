"""Couplings as functions of distance, J(r): the parameters, the laws, and the table that kernels read.

A law is written once as a scalar function. It is tabulated on about 8192 intervals of [0, cutoff] as piecewise cubics,
and the table is *the* function: energies and forces come from the same cubic, so that forces are exact derivatives.
Couplings on a rigid lattice (by shell, by list) are in ``spinmd.potentials.lattice_couplings``; only their parameters
are here.
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numba import njit
from pydantic import Field, model_validator

import spinmd.backend  # noqa: F401  (sets numba's cache folder before kernels are defined)
from spinmd.errors import InputError
from spinmd.parameters import Energy, InputFile, Length, Parameters
from spinmd.units import UNITS

INTERVALS = 8192
STATIC_FORMS = ("shells", "list")


class RadialBase(Parameters):
    """How a coupling depends on distance; subclasses add the amplitudes under their own names (J0, J; K0, K; D0, D)."""

    # form -> parameters that it needs, parameters that it may have; "{}" stands for the symbol (J, K, D)
    FORMS: ClassVar[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
        "bethe-slater": (("a", "b", "d", "cutoff"), ("smoothing",)),
        "polynomial": (("{}0", "cutoff"), ("power", "smoothing")),
        "constant": (("{}0", "cutoff"), ("smoothing",)),
        "table": (("file",), ("unit", "cutoff", "smoothing")),
        "shells": (("{}",), ("cutoff", "tolerance")),
        "list": (("file",), ("unit", "tolerance")),
    }
    symbol: ClassVar[str] = "J"

    form: Literal["bethe-slater", "polynomial", "constant", "table", "shells", "list"] = Field(
        description="the law: bethe-slater 4a q(1 − b q)exp(−q), q = (r/d)²; polynomial J0(1 − r/cutoff)^power; "
        "constant J0; table: a file of r and J; shells: one J per shell of the ideal lattice; list: a file of couplings"
    )
    a: Energy | None = Field(None, description="amplitude of bethe-slater")
    b: float | None = Field(None, description="shape of bethe-slater, no unit")
    d: Length | None = Field(None, gt=0.0, description="distance scale of bethe-slater")
    power: float = Field(3.0, ge=1.0, description="exponent of polynomial")
    file: InputFile | None = Field(None, description="table: two columns r (Å) and coupling; list: see docs")
    unit: str = Field("eV", description="unit of energy in the file")
    cutoff: Length | None = Field(None, gt=0.0, description="no coupling beyond this distance")
    smoothing: Length = Field(0.2, ge=0.0, description="width of the smooth end at the cutoff; 0 is a hard cutoff")
    tolerance: Length = Field(
        0.05, gt=0.0, description="shells, list: distances and vectors that differ less are the same"
    )

    @property
    def static(self) -> bool:
        """True for couplings that are found on the ideal lattice and do not depend on distance."""
        return self.form in STATIC_FORMS

    @property
    def amplitude(self) -> float | None:
        """J0 under its own name, eV."""
        return getattr(self, f"{self.symbol}0")

    @property
    def shells(self) -> tuple[float, ...] | None:
        """J by shell under its own name, eV."""
        return getattr(self, self.symbol)

    @model_validator(mode="after")
    def _only_what_the_form_uses(self):
        needed, optional = ([name.format(self.symbol) for name in names] for names in self.FORMS[self.form])
        for name in needed:
            if getattr(self, name) is None:
                raise InputError(f"form = {self.form!r} needs {name}", name)
        every = {name.format(self.symbol) for names in self.FORMS.values() for group in names for name in group}
        for name in sorted(every & self.model_fields_set):
            allowed = name in needed or name in optional or getattr(self, name) is None
            if not allowed and not (name == "smoothing" and self.smoothing == 0.0):
                raise InputError(
                    f"form = {self.form!r} has no parameter {name}; it has {', '.join(needed + optional)}", name
                )
        if self.unit not in UNITS["energy"]:
            raise InputError(f"unknown unit of energy {self.unit!r}; use one of {', '.join(UNITS['energy'])}", "unit")
        if self.cutoff is not None and "smoothing" in self.model_fields_set and self.smoothing >= self.cutoff:
            raise InputError(
                f"smoothing ({self.smoothing:g} Å) must be less than the cutoff ({self.cutoff:g} Å)", "smoothing"
            )
        return self


class RadialParameters(RadialBase):
    """Exchange J(r), and J by shell or list; eV, Å."""

    J0: Energy | None = Field(None, description="amplitude of polynomial and constant")
    J: tuple[Energy, ...] | None = Field(
        None, min_length=1, description="shells: couplings of the first, second, ... shell"
    )
    offset: bool = Field(False, description="energy −½ Σ J (e_i·e_j − 1): zero for the ferromagnet")


# --- laws: scalar functions, r and lengths in Å, energies in eV
# --------------------------------------------------------------------


@njit(cache=True)
def bethe_slater(r, a, b, d):
    """4a q(1 − b q) exp(−q), q = (r/d)²."""
    q = (r / d) * (r / d)
    return 4.0 * a * q * (1.0 - b * q) * np.exp(-q)


@njit(cache=True)
def bethe_slater_slope(r, a, b, d):
    """Derivative of ``bethe_slater`` with respect to r."""
    q = (r / d) * (r / d)
    return 8.0 * a * r / (d * d) * np.exp(-q) * (1.0 - 2.0 * b * q - q * (1.0 - b * q))


@njit(cache=True)
def polynomial(r, amplitude, power, cutoff):
    """J0 (1 − r/cutoff)^power inside the cutoff, 0 outside."""
    return amplitude * (1.0 - r / cutoff) ** power if r < cutoff else 0.0


@njit(cache=True)
def polynomial_slope(r, amplitude, power, cutoff):
    """Derivative of ``polynomial`` with respect to r."""
    return -amplitude * power / cutoff * (1.0 - r / cutoff) ** (power - 1.0) if r < cutoff else 0.0


@njit(cache=True)
def smooth_end(r, cutoff, smoothing):
    """1 up to cutoff − smoothing, 0 from the cutoff on, a quintic with two continuous derivatives between."""
    if r >= cutoff:
        return 0.0
    x = (cutoff - r) / smoothing if smoothing > 0.0 else 1.0
    return x * x * x * (10.0 - x * (15.0 - 6.0 * x)) if x < 1.0 else 1.0


@njit(cache=True)
def smooth_end_slope(r, cutoff, smoothing):
    """Derivative of ``smooth_end`` with respect to r."""
    if r >= cutoff or smoothing <= 0.0:
        return 0.0
    x = (cutoff - r) / smoothing
    return -30.0 * x * x * (1.0 - x) * (1.0 - x) / smoothing if x < 1.0 else 0.0


# --- reading a table
# -----------------------------------------------------------------------------------------------------------


@njit(cache=True)
def cubic(c0, c1, c2, c3, t):
    """c0 + c1 t + c2 t² + c3 t³."""
    return c0 + t * (c1 + t * (c2 + t * c3))


@njit(cache=True)
def cubic_slope(c1, c2, c3, t):
    """Derivative of ``cubic`` with respect to t."""
    return c1 + t * (c2 + c2 + t * (c3 + c3 + c3))


@njit(cache=True)
def table_value(rows, inverse_spacing, r):
    """The tabulated function at distance r; 0 from the cutoff on."""
    x = r * inverse_spacing
    m = min(int(x), rows.shape[0] - 1)
    return cubic(rows[m, 0], rows[m, 1], rows[m, 2], rows[m, 3], x - m)


@njit(cache=True)
def table_slope(rows, inverse_spacing, r):
    """Derivative of ``table_value`` with respect to r."""
    x = r * inverse_spacing
    m = min(int(x), rows.shape[0] - 1)
    return inverse_spacing * cubic_slope(rows[m, 1], rows[m, 2], rows[m, 3], x - m)


# --- from parameters to a table
# --------------------------------------------------------------------------------------------------


def cutoff_of(parameters: RadialBase) -> float:
    """Å; that of a table without one is its last point, that of static forms 0."""
    if parameters.static:
        return 0.0
    if parameters.cutoff is not None:
        return parameters.cutoff
    return float(read_table(parameters.file)[-1, 0])


def evaluate(parameters: RadialBase, r) -> tuple[np.ndarray, np.ndarray]:
    """J and dJ/dr (eV, eV/Å) of a form that depends on distance, smooth end included, at distances r (Å)."""
    r = np.asarray(r, dtype=np.float64)
    cutoff = cutoff_of(parameters)
    value, slope = _law(parameters, r, cutoff)
    smoothing = parameters.smoothing
    end = np.array([smooth_end(x, cutoff, smoothing) for x in r.ravel()]).reshape(r.shape)
    end_slope = np.array([smooth_end_slope(x, cutoff, smoothing) for x in r.ravel()]).reshape(r.shape)
    return value * end, slope * end + value * end_slope


def _law(parameters: RadialBase, r: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    if parameters.form == "constant":
        return np.full(r.shape, parameters.amplitude), np.zeros(r.shape)
    if parameters.form == "table":
        spline, first = _spline(parameters)
        inside = np.maximum(r, first)
        slope = spline(inside, 1)
        return spline(inside) + (r - inside) * slope, slope
    if parameters.form == "bethe-slater":
        law, law_slope, constants = bethe_slater, bethe_slater_slope, (parameters.a, parameters.b, parameters.d)
    elif parameters.form == "polynomial":
        law, law_slope, constants = polynomial, polynomial_slope, (parameters.amplitude, parameters.power, cutoff)
    else:
        raise InputError(f"form = {parameters.form!r} does not depend on distance", "form")
    value = np.array([law(x, *constants) for x in r.ravel()]).reshape(r.shape)
    return value, np.array([law_slope(x, *constants) for x in r.ravel()]).reshape(r.shape)


def tabulate(parameters: RadialBase) -> tuple[np.ndarray, float]:
    """(n + 1, 4) rows and the inverse spacing in 1/Å: J(r) = c0 + t(c1 + t(c2 + t c3)), row m = ⌊r·inverse⌋, t =
    r·inverse − m.

    The last row is zero: any r ≥ cutoff, with m clamped to n, gives exactly 0. Errors against the law are below 1e-10
    of its largest value (1e-12 with a hard cutoff). Raises InputError for a table file that cannot be used.
    """
    cutoff = cutoff_of(parameters)
    # the third derivative jumps where the smooth end begins: choose n so that a node falls there
    counts = np.arange(INTERVALS, INTERVALS + 1024)
    start = counts * (1.0 - parameters.smoothing / cutoff)
    n = int(counts[np.argmin(np.abs(start - np.round(start)))])
    inverse_spacing = n / cutoff
    nodes = np.linspace(0.0, cutoff, n + 1)
    value, slope = evaluate(parameters, nodes)
    # the last interval ends with what the law is just inside the cutoff, which matters for a hard cutoff
    edge, edge_slope = _law(parameters, np.array([np.nextafter(cutoff, 0.0)]), cutoff)
    hard = parameters.smoothing == 0.0
    value[-1], slope[-1] = (edge[0], edge_slope[0]) if hard else (0.0, 0.0)
    slope /= inverse_spacing
    rows = np.zeros((n + 1, 4))
    step = np.diff(value)
    rows[:-1, 0] = value[:-1]
    rows[:-1, 1] = slope[:-1]
    rows[:-1, 2] = 3.0 * step - 2.0 * slope[:-1] - slope[1:]
    rows[:-1, 3] = slope[:-1] + slope[1:] - 2.0 * step
    if not np.isfinite(rows).all():
        raise InputError("the coupling is not finite somewhere inside the cutoff", "form")
    return rows, inverse_spacing


def read_table(path: str | Path) -> np.ndarray:
    """(n, 2) distances (Å, increasing) and couplings (in the file's unit); lines starting with # are comments.

    Raises InputError, with file and line, for anything else.
    """
    points = []
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the table: {error.strerror or error}", str(path)) from None
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            point = [float(word) for word in words]
        except ValueError:
            point = []
        if len(point) != 2 or not np.isfinite(point).all():
            raise InputError(
                f"expected two numbers, distance and coupling, got {line.strip()!r}", f"{path} line {number}"
            )
        if point[0] <= 0.0 or (points and point[0] <= points[-1][0]):
            raise InputError(f"distances must be positive and increase, got {point[0]:g}", f"{path} line {number}")
        points.append(point)
    if len(points) < 2:
        raise InputError(f"a table needs at least two points, found {len(points)}", str(path))
    return np.array(points)


def _spline(parameters: RadialBase):
    """The cubic spline through the points of a table (eV), and its first distance; below it goes on as a line."""
    from scipy.interpolate import CubicSpline

    points = read_table(parameters.file)
    if parameters.cutoff is not None and parameters.cutoff > points[-1, 0] * (1.0 + 1e-12):
        raise InputError(
            f"the cutoff, {parameters.cutoff:g} Å, lies beyond the last point of the table, {points[-1, 0]:g} Å",
            "cutoff",
        )
    return CubicSpline(points[:, 0], points[:, 1] * UNITS["energy"][parameters.unit]), float(points[0, 0])
