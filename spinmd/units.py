"""Physical constants and the conversion of unit strings to internal units.

Internal units: Å, ps, eV, amu, K, µB; magnetic fields enter in tesla and become eV/µB through ``BOHR_MAGNETON``.
Constants: CODATA 2022 (https://physics.nist.gov/cuu/Constants/). Units are converted once, when input is read.
"""

import math
import re

from spinmd.errors import InputError

BOLTZMANN = 8.617333262e-5  # eV/K
HBAR = 6.582119569e-4  # eV ps
BOHR_MAGNETON = 5.7883817982e-5  # eV/T (per µB)
ELEMENTARY_CHARGE = 1.602176634e-19  # C
ATOMIC_MASS = 1.66053906892e-27  # kg
VACUUM_PERMEABILITY = 1.25663706127e-6  # N/A²
AMU = ATOMIC_MASS * 1.0e4 / ELEMENTARY_CHARGE  # eV ps²/Å² per amu: ½ m v² of amu and Å/ps, times AMU, is in eV
DIPOLE = VACUUM_PERMEABILITY / (4.0 * math.pi) * BOHR_MAGNETON**2 * ELEMENTARY_CHARGE * 1.0e30  # µ0 µB²/4π, eV Å³
EV_PER_A3_IN_GPA = 160.2176634
G_FACTOR = 2.0

# dimension -> unit -> factor to the internal unit; the first unit of each is the internal one
UNITS: dict[str, dict[str, float]] = {
    "length": {"Å": 1.0, "A": 1.0, "Ang": 1.0, "Angstrom": 1.0, "nm": 10.0, "pm": 0.01, "bohr": 0.529177210544},
    "time": {"ps": 1.0, "fs": 1.0e-3, "as": 1.0e-6, "ns": 1.0e3},
    "energy": {
        "eV": 1.0,
        "meV": 1.0e-3,
        "µeV": 1.0e-6,
        "ueV": 1.0e-6,
        "keV": 1.0e3,
        "J": 1.0 / ELEMENTARY_CHARGE,
        "Ry": 13.605693122990,
        "mRy": 13.605693122990e-3,
        "Ha": 27.211386245981,
        "kJ/mol": 1.0364269574e-2,
        "kcal/mol": 4.3364104e-2,
    },
    "temperature": {"K": 1.0, "mK": 1.0e-3},
    "mass": {"amu": 1.0, "u": 1.0, "Da": 1.0},
    "moment": {"µB": 1.0, "uB": 1.0, "muB": 1.0},
    "field": {"T": 1.0, "mT": 1.0e-3, "kT": 1.0e3, "Gauss": 1.0e-4},
    "velocity": {"Å/ps": 1.0, "A/ps": 1.0, "Å/fs": 1.0e3, "A/fs": 1.0e3, "m/s": 0.01, "km/s": 10.0},
    "rate": {"1/ps": 1.0, "1/fs": 1.0e3, "1/ns": 1.0e-3, "THz": 1.0, "GHz": 1.0e-3, "MHz": 1.0e-6},
    "pressure": {
        "eV/Å³": 1.0,
        "eV/A3": 1.0,
        "GPa": 1.0 / EV_PER_A3_IN_GPA,
        "MPa": 1.0e-3 / EV_PER_A3_IN_GPA,
        "bar": 1.0e-4 / EV_PER_A3_IN_GPA,
        "kbar": 0.1 / EV_PER_A3_IN_GPA,
    },
    "angle": {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "rad": 57.29577951308232},
}

_QUANTITY = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*$")


def convert(value, dimension: str, place: str = "") -> float:
    """``value`` (a number in internal units, or a string such as ``"1 fs"``) as a float in internal units.

    Raises InputError, at ``place``, for anything that is not a finite number with a unit of ``dimension``.
    """
    table = UNITS[dimension]
    internal = next(iter(table))
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(f'expected a number in {internal} or a string such as "1 {internal}", got {value!r}', place)
    if isinstance(value, str):
        match = _QUANTITY.match(value)
        if match is None:
            raise InputError(f'cannot read {value!r} as a {dimension}; write for example "1 {internal}"', place)
        number, unit = float(match.group(1)), match.group(2)
        if unit is None:
            unit = internal
        unit = unit.replace("μ", "µ")
        if unit not in table:
            known = ", ".join(table)
            raise InputError(f"{unit!r} is not a unit of {dimension} that spinmd knows; use one of {known}", place)
        number *= table[unit]
    else:
        number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise InputError(f"expected a finite {dimension}, got {value!r}", place)
    return number
