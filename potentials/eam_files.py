"""Readers of tabulated embedded-atom potentials: setfl (``.eam.alloy``), Finnis-Sinclair (``.eam.fs``) and funcfl
(``.eam``).

Only files become tables here; the energy and its derivatives are in ``spinmd.potentials.eam``. Formats and the
interpolation are those of LAMMPS (``pair_eam*.cpp``, https://docs.lammps.org/pair_eam.html), so that both codes compute
the same function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spinmd.errors import InputError

FORMATS = ("setfl", "fs", "funcfl")
# funcfl files hold charges Z(r): r·φ(r) = HARTREE·BOHR·Z², with the rounded constants that their authors and LAMMPS use
LARGEST = 1.0e30  # what a damaged exponent makes larger would overflow in squares and slopes
FUNCFL_HARTREE = 27.2  # eV
FUNCFL_BOHR = 0.529  # Å


@dataclass(frozen=True)
class EAMTables:
    """Tables of an embedded-atom potential, E = Σ_i F_a(ρ_i) + ½ Σ_ij φ_ab(r_ij), ρ_i = Σ_j f_ab(r_ij).

    elements   symbols;  masses (nelem,) amu;  cutoff Å
    embedding  (nelem, nrho) F in eV at ρ = k·drho
    density    (nelem, nelem, nr), [a, b]: density at an atom of element a that a neighbour of element b causes, at r =
               k·dr
    rphi       (nelem, nelem, nr) r·φ(r), eV Å, symmetric in the elements
    """

    elements: tuple[str, ...]
    masses: np.ndarray
    nrho: int
    drho: float
    nr: int
    dr: float
    cutoff: float
    embedding: np.ndarray
    density: np.ndarray
    rphi: np.ndarray


def read_eam(path: str | Path | Sequence, format: str | None = None) -> EAMTables:
    """The tables of an EAM file, or of several funcfl files (one element each) combined as LAMMPS does.

    ``format`` is "setfl", "fs" or "funcfl"; by default it follows from the file's name and content.
    Raises InputError, naming the file and the line, for a file that is missing, cut short or malformed.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown EAM format {format!r}; use one of {', '.join(FORMATS)}", "format")
    paths = [Path(path)] if isinstance(path, (str, Path)) else [Path(p) for p in path]
    if not paths:
        raise InputError("no EAM file is given", "file")
    files = [_Lines(p) for p in paths]
    kinds = [format or detect_format(file) for file in files]
    if len(files) > 1 and set(kinds) != {"funcfl"}:
        raise InputError(
            "several EAM files can be combined only if all are funcfl files of one element each", str(paths[0])
        )
    if kinds[0] == "funcfl":
        return _combine_funcfl([_read_funcfl(file) for file in files], paths)
    return _read_setfl(files[0], finnis_sinclair=kinds[0] == "fs")


def detect_format(file: "_Lines") -> str:
    """funcfl if the third line is a table header, else fs or setfl by the file's name or the count of its numbers."""
    if file.is_header(2) and not file.is_header(4):
        return "funcfl"
    name = file.path.name.lower()
    if name.endswith(".fs") or ".fs." in name:
        return "fs"
    if name.endswith((".alloy", ".setfl")):
        return "setfl"
    file.rewind()
    elements, nrho, _, nr, _, _ = _setfl_header(file)
    numbers = sum(len(line.split()) for line in file.lines[5:])
    nelem = len(elements)
    finnis_sinclair = nelem * (nrho + nelem * nr) + nelem * (nelem + 1) // 2 * nr
    file.rewind()
    return "fs" if nelem > 1 and numbers >= finnis_sinclair else "setfl"


def shortened(words: list[str]) -> str:
    """What stands in a line, quoted, at most 50 characters of it."""
    text = " ".join(words)
    return repr(text if len(text) <= 50 else text[:47] + "...")


class _Lines:
    """The lines of a file, read in order; every failure is an InputError that names file and line."""

    def __init__(self, path: Path):
        self.path = path
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(f"cannot read the EAM file: {error.strerror or error}", str(path)) from None
        if "\0" in text[:4096]:
            raise InputError("this is not a text file; an EAM file is expected", str(path))
        self.complete = text.endswith("\n")
        self.lines = text.split("\n")
        if self.complete:
            self.lines.pop()
        self.at = 0

    def rewind(self) -> None:
        self.at = 0

    def fail(self, message: str, line: int | None = None):
        raise InputError(message, f"{self.path} line {self.at if line is None else line}")

    def next(self, what: str) -> str:
        """The next line that is not blank (comment lines may be)."""
        if self.at >= len(self.lines):
            raise InputError(f"the file ends where {what} is expected; it was cut short", str(self.path))
        self.at += 1
        return self.lines[self.at - 1]

    def is_header(self, index: int) -> bool:
        """True if line ``index`` (from 0) reads nrho drho nr dr cutoff."""
        if index >= len(self.lines):
            return False
        words = self.lines[index].split()
        try:
            return len(words) >= 5 and int(words[0]) > 0 and int(words[2]) > 0 and all(map(_is_number, words[:5]))
        except ValueError:
            return False

    def header(self) -> tuple[int, float, int, float, float]:
        """nrho, drho, nr, dr, cutoff."""
        words = self.next("the line nrho drho nr dr cutoff").split()
        if not self.is_header(self.at - 1):
            self.fail(f"expected five numbers nrho drho nr dr cutoff, got {shortened(words)}")
        nrho, drho, nr, dr, cutoff = (
            int(words[0]),
            _number(words[1]),
            int(words[2]),
            _number(words[3]),
            _number(words[4]),
        )
        if nrho < 5 or nr < 5 or not drho > 0.0 or not dr > 0.0 or not cutoff > 0.0:
            self.fail(f"tables need at least 5 points and positive spacings and cutoff, got {shortened(words[:5])}")
        if cutoff > 1.001 * nr * dr:
            self.fail(f"the cutoff of {cutoff:g} Å lies beyond the tables, which end at {(nr - 1) * dr:g} Å")
        if nrho > 100_000_000 or nr > 100_000_000:
            self.fail(f"a table of {max(nrho, nr)} points is not credible")
        if self.at == len(self.lines) and not self.complete:
            self.fail("the file ends in its header; it was cut short")
        return nrho, drho, nr, dr, cutoff

    def numbers(self, count: int, what: str) -> np.ndarray:
        """The next ``count`` numbers, which end at the end of a line."""
        words: list[str] = []
        first = self.at + 1
        while len(words) < count:
            if self.at >= len(self.lines):
                raise InputError(
                    f"expected {count} numbers of {what}, found {len(words)}; the file was cut short", str(self.path)
                )
            words += self.lines[self.at].split()
            self.at += 1
        if len(words) > count:
            self.fail(f"{what} has {count} numbers, but the line where they should end holds {len(words) - count} more")
        if self.at == len(self.lines) and not self.complete:
            self._refuse_half_a_number(words, what)
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError:
            values = np.array([self._value(word, what, first) for word in words])
        good = np.abs(values) < LARGEST
        if not good.all():
            bad = words[int(np.argmin(good))]
            self.fail(f"{what} (from line {first}) holds {bad!r}, which is not a finite number of any credible size")
        return values

    def end(self) -> None:
        """Refuse numbers behind the last table: with a line too many, all tables after it are shifted."""
        for number, line in enumerate(self.lines[self.at :], start=self.at + 1):
            words = line.split()
            if words and all(_is_number(word) for word in words):
                self.fail("numbers follow the last table; some line above is too many", number)

    def _value(self, word: str, what: str, first: int) -> float:
        try:
            return _number(word)
        except ValueError:
            self.fail(f"{what} (from line {first}) holds {word!r}, which is not a number")

    def _refuse_half_a_number(self, words: list[str], what: str) -> None:
        """A last line without end-of-line, whose last number is shorter than the one before, was cut in that number."""
        last, before = words[-1].lstrip("+-"), words[-2].lstrip("+-")
        harmless = "e" not in before.lower() and _is_number(last) and _number(last) == 0.0
        if len(last) < len(before) and not harmless:
            raise InputError(
                f"the file ends in the middle of the last number of {what}, {words[-1]!r}; it was cut short",
                str(self.path),
            )


def _number(word: str) -> float:
    """A number as C or Fortran write it (1.0D-03)."""
    return float(word.replace("D", "E").replace("d", "e"))


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(_number(word))
    except ValueError:
        return False


def _refuse_other_units(file: _Lines) -> None:
    words = file.lines[0].split() if file.lines else []
    if "UNITS:" in words[:-1] and words[words.index("UNITS:") + 1] != "metal":
        unit = words[words.index("UNITS:") + 1]
        file.fail(f"the tables are in LAMMPS's {unit!r} units; spinmd reads metal units (eV, Å)", 1)


def _setfl_header(file: _Lines):
    for _ in range(3):
        file.next("a comment line")
    words = file.next("the number of elements and their symbols").split()
    if not words or not words[0].isdigit() or int(words[0]) < 1:
        file.fail(f"expected the number of elements and their symbols, got {shortened(words)}")
    elements = tuple(words[1:])
    if len(elements) != int(words[0]):
        file.fail(f"expected {words[0]} element symbols, found {len(elements)}: {' '.join(words)!r}")
    if len(set(elements)) != len(elements):
        file.fail(f"an element is listed twice: {' '.join(words)!r}")
    return elements, *file.header()


def _element_mass(file: _Lines, element: str) -> float:
    words = file.next(f"the line of element {element} (atomic number, mass, ...)").split()
    if len(words) < 2 or not _is_number(words[0]) or not _is_number(words[1]) or _number(words[1]) <= 0.0:
        file.fail(f"expected atomic number and mass of {element}, got {shortened(words)}")
    return _number(words[1])


def _read_setfl(file: _Lines, finnis_sinclair: bool) -> EAMTables:
    file.rewind()
    _refuse_other_units(file)
    elements, nrho, drho, nr, dr, cutoff = _setfl_header(file)
    nelem = len(elements)
    # before allocating what the header asks for: the file must hold as many numbers (and at least two for each element)
    expected = nelem * (nrho + (nelem if finnis_sinclair else 1) * nr) + nelem * (nelem + 1) // 2 * nr
    found = sum(len(line.split()) for line in file.lines[file.at :])
    if found < expected + 2 * nelem:
        kind = "Finnis-Sinclair" if finnis_sinclair else "setfl"
        raise InputError(
            f"{nelem} element(s) in {kind} format with nrho = {nrho} and nr = {nr} need {expected} numbers, "
            f"found {max(found - 4 * nelem, 0)}; the file was cut short, or is in another format",
            str(file.path),
        )
    masses = np.empty(nelem)
    embedding = np.empty((nelem, nrho))
    density = np.empty((nelem, nelem, nr))
    rphi = np.empty((nelem, nelem, nr))
    for a, element in enumerate(elements):
        masses[a] = _element_mass(file, element)
        embedding[a] = file.numbers(nrho, f"the embedding function of {element}")
        if finnis_sinclair:
            # block a holds what an atom of element a causes at an atom of each element (LAMMPS: rhor[type j][type i]
            # for ρ_i)
            for b, other in enumerate(elements):
                density[b, a] = file.numbers(nr, f"the density of {element} at {other}")
        else:
            density[:, a] = file.numbers(nr, f"the density of {element}")
    for a in range(nelem):
        for b in range(a + 1):
            rphi[a, b] = rphi[b, a] = file.numbers(nr, f"r·phi of {elements[a]}-{elements[b]}")
    file.end()
    return EAMTables(elements, masses, nrho, drho, nr, dr, cutoff, embedding, density, rphi)


@dataclass(frozen=True)
class _Funcfl:
    element: str
    mass: float
    nrho: int
    drho: float
    nr: int
    dr: float
    cutoff: float
    embedding: np.ndarray
    charge: np.ndarray
    density: np.ndarray


def _read_funcfl(file: _Lines) -> _Funcfl:
    from ase.data import chemical_symbols

    file.rewind()
    _refuse_other_units(file)
    file.next("a comment line")
    words = file.next("atomic number and mass").split()
    if len(words) < 2 or not words[0].isdigit() or not _is_number(words[1]) or _number(words[1]) <= 0.0:
        file.fail(f"expected atomic number and mass, got {shortened(words)}")
    number = int(words[0])
    if not 0 < number < len(chemical_symbols):
        file.fail(f"{number} is not an atomic number")
    nrho, drho, nr, dr, cutoff = file.header()
    embedding = file.numbers(nrho, "the embedding function")
    charge = file.numbers(nr, "the charge Z(r)")
    density = file.numbers(nr, "the density")
    file.end()
    return _Funcfl(chemical_symbols[number], _number(words[1]), nrho, drho, nr, dr, cutoff, embedding, charge, density)


def _combine_funcfl(files: list[_Funcfl], paths: list[Path]) -> EAMTables:
    """One grid for all files, as in LAMMPS: coarsest spacings, longest ranges, cubic Lagrange interpolation."""
    elements = tuple(file.element for file in files)
    if len(set(elements)) != len(elements):
        raise InputError(f"two of the files describe the same element ({', '.join(elements)})", str(paths[0]))
    dr = max(file.dr for file in files)
    drho = max(file.drho for file in files)
    # LAMMPS keeps one point less than the file has; the last derivative of the spline depends on it
    nr = int(max((file.nr - 1) * file.dr for file in files) / dr + 0.5)
    nrho = int(max((file.nrho - 1) * file.drho for file in files) / drho + 0.5)
    charge = np.array([_lagrange(file.charge, file.dr, nr, dr) for file in files])
    density = np.array([_lagrange(file.density, file.dr, nr, dr) for file in files])
    return EAMTables(
        elements=elements,
        masses=np.array([file.mass for file in files]),
        nrho=nrho,
        drho=drho,
        nr=nr,
        dr=dr,
        cutoff=max(file.cutoff for file in files),
        embedding=np.array([_lagrange(file.embedding, file.drho, nrho, drho) for file in files]),
        density=np.repeat(density[None, :, :], len(files), axis=0),
        rphi=FUNCFL_HARTREE * FUNCFL_BOHR * charge[:, None, :] * charge[None, :, :],
    )


def _lagrange(table: np.ndarray, spacing: float, count: int, new_spacing: float) -> np.ndarray:
    """``table`` on another grid by 4-point Lagrange interpolation (LAMMPS, PairEAM::file2array)."""
    p = np.arange(count) * new_spacing / spacing + 1.0
    k = np.clip(p.astype(np.int64), 2, len(table) - 2)
    p = np.minimum(p - k, 2.0)
    weights = (
        -p * (p - 1.0) * (p - 2.0) / 6.0,
        (p * p - 1.0) * (p - 2.0) / 2.0,
        -p * (p + 1.0) * (p - 2.0) / 2.0,
        p * (p * p - 1.0) / 6.0,
    )
    return sum(w * table[k - 2 + shift] for shift, w in enumerate(weights))


def lammps_spline(values, spacing: float) -> np.ndarray:
    """(n, 4) rows of LAMMPS's piecewise cubic (PairEAM::interpolate): value = c0 + t(c1 + t(c2 + t c3)), t = x/spacing
    − m.

    Derivatives at the nodes are five-point differences, at the two ends shorter ones. The derivative with respect to x
    is (c1 + t(2 c2 + 3 t c3))/spacing. The last row continues linearly; LAMMPS itself uses row n − 2 with t ≤ 1 there.
    """
    f = np.asarray(values, dtype=np.float64)
    n = len(f)
    if n < 5:
        raise InputError(f"a spline needs at least 5 points, got {n}")
    if not spacing > 0.0:
        raise InputError(f"the spacing of a table must be positive, got {spacing}")
    slope = np.empty(n)
    slope[0] = f[1] - f[0]
    slope[1] = 0.5 * (f[2] - f[0])
    slope[n - 2] = 0.5 * (f[n - 1] - f[n - 3])
    slope[n - 1] = f[n - 1] - f[n - 2]
    slope[2 : n - 2] = ((f[: n - 4] - f[4:]) + 8.0 * (f[3 : n - 1] - f[1 : n - 3])) / 12.0
    rows = np.zeros((n, 4))
    rows[:, 0] = f
    rows[:, 1] = slope
    step = np.diff(f)
    rows[:-1, 2] = 3.0 * step - 2.0 * slope[:-1] - slope[1:]
    rows[:-1, 3] = slope[:-1] + slope[1:] - 2.0 * step
    return rows
