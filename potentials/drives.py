"""Magnetic fields that change in time: B(t) in tesla, t in ps on the clock of the run, which starts at 0.

Every drive has ``at(t)``: t a number or an array (...), the result (..., 3). A field in a deck is three numbers (constant) or a
table with a ``form``.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag, model_validator
from pydantic_core import PydanticCustomError

from spinmd.errors import InputError
from spinmd.parameters import Angle, InputFile, MagneticField, Parameters, Rate, Time, Vector
from spinmd.potentials.drive_laws import GAUSSIAN, SINC, SQUARE, carrier, pulse_size, ramp_share, repeated

FieldVector = tuple[MagneticField, MagneticField, MagneticField]
ZERO = (0.0, 0.0, 0.0)
COLUMNS = "time in ps, B_x, B_y, B_z in tesla"


class RampField(Parameters):
    """B goes in a straight line from ``start`` to ``end``, and is constant before and after."""

    form: Literal["ramp"]
    start: FieldVector = Field(description="B before")
    end: FieldVector = Field(description="B after")
    time: Time = Field(gt=0.0, description="how long it takes")
    begin: Time = Field(0.0, description="when it begins")

    def at(self, t):
        """B (..., 3) in T at t ps."""
        share = _each(ramp_share, t, self.begin, self.time)[..., None]
        return np.array(self.start) * (1.0 - share) + np.array(self.end) * share


class PointsField(Parameters):
    """B in straight lines from point to point: a hysteresis loop, a staircase; constant before and after, or repeated."""

    form: Literal["points"]
    times: tuple[Time, ...] = Field(min_length=1, description="when, ascending")
    fields: tuple[FieldVector, ...] = Field(description="B then, one for each time")
    repeat: bool = Field(False, description="whether it begins again after the last point")

    @model_validator(mode="after")
    def _ascending(self):
        if len(self.times) != len(self.fields):
            _refuse(f"there are {len(self.times)} times and {len(self.fields)} fields")
        if wrong := _wrong_times(np.array(self.times), self.repeat):
            _refuse(wrong)
        return self

    def rows(self) -> np.ndarray:
        """(n, 4) times and fields."""
        return np.column_stack((self.times, self.fields))

    def at(self, t):
        """B (..., 3) in T at t ps."""
        return _interpolated(self.rows(), self.repeat, t)


class SineField(Parameters):
    """B = offset + amplitude sin(2π f (t − begin) + phase), also before ``begin``."""

    form: Literal["sine"]
    amplitude: FieldVector = Field(description="direction and size of the oscillation")
    frequency: Rate = Field(gt=0.0, description="f, not the angular frequency")
    phase: Angle = Field(0.0, description="at ``begin``")
    begin: Time = Field(0.0, description="when the phase is ``phase``")
    offset: FieldVector = Field(ZERO, description="constant part of B")

    def at(self, t):
        """B (..., 3) in T at t ps."""
        sine = _each(carrier, t, self.frequency, self.phase, self.begin)[..., 1, None]
        return np.array(self.offset) + np.array(self.amplitude) * sine


class PulseField(Parameters):
    """B = offset + amplitude s(t − centre) cos(2π f (t − centre) + phase), with an envelope s of height 1.

    With τ = t − centre, gaussian: s = exp(−τ²/(2 width²)); square: 1 for |τ| ≤ width/2, else 0; sinc: sin(x)/x with
    x = 2π τ/width, whose spectrum is flat up to 1/width: it excites all spin waves below that frequency alike.
    """

    form: Literal["pulse"]
    amplitude: FieldVector = Field(description="direction and size at the centre")
    centre: Time = Field(description="t of the centre")
    width: Time = Field(gt=0.0, description="see above")
    envelope: Literal["gaussian", "square", "sinc"] = Field("gaussian", description="s")
    frequency: Rate = Field(0.0, ge=0.0, description="f of the carrier; 0: none")
    phase: Angle = Field(0.0, description="of the carrier at the centre")
    offset: FieldVector = Field(ZERO, description="constant part of B")

    def at(self, t):
        """B (..., 3) in T at t ps."""
        size = _each(pulse_size, t, self.centre, self.width, self.shape, self.frequency, self.phase)
        return np.array(self.offset) + np.array(self.amplitude) * size[..., None]

    @property
    def shape(self) -> int:
        """The envelope as ``drive_laws`` knows it."""
        return {"gaussian": GAUSSIAN, "square": SQUARE, "sinc": SINC}[self.envelope]


class RotatingField(Parameters):
    """B = offset + amplitude turned about ``axis`` by 2π f (t − begin) + phase, counter-clockwise seen from the tip of the axis."""

    form: Literal["rotating"]
    amplitude: FieldVector = Field(description="B at angle 0; its part along the axis stays")
    frequency: Rate = Field(gt=0.0, description="f; turns per time, not the angular frequency")
    axis: Vector = Field((0.0, 0.0, 1.0), description="need not have length 1; −axis turns the other way")
    phase: Angle = Field(0.0, description="angle at ``begin``")
    begin: Time = Field(0.0, description="when the angle is ``phase``")
    offset: FieldVector = Field(ZERO, description="constant part of B")

    @model_validator(mode="after")
    def _has_axis(self):
        if not 0.0 < np.linalg.norm(self.axis) < np.inf:
            _refuse("the axis needs a direction")
        return self

    def at(self, t):
        """B (..., 3) in T at t ps (Rodrigues' formula)."""
        still, cosine, sine = self.vectors()
        turned = _each(carrier, t, self.frequency, self.phase, self.begin)
        return still + cosine * turned[..., :1] + sine * turned[..., 1:]

    def vectors(self) -> np.ndarray:
        """(3, 3) T, rows: what stands still, what goes with the cosine of the angle, and what with its sine."""
        n, b = np.array(self.axis) / np.linalg.norm(self.axis), np.array(self.amplitude)
        along = (n @ b) * n
        return np.array([np.array(self.offset) + along, b - along, np.cross(n, b)])


class FileField(Parameters):
    """B from a text file of four columns, time in ps and B_x, B_y, B_z in tesla, in straight lines from row to row."""

    form: Literal["file"]
    file: InputFile = Field(description="four columns; # begins a comment; times ascend")
    repeat: bool = Field(False, description="whether it begins again after the last row")
    _rows: np.ndarray | None = PrivateAttr(None)

    def rows(self) -> np.ndarray:
        """(n, 4) of the file. Raises InputError, with the line where possible, for what is no such table."""
        if self._rows is None:
            rows = _read(self.file)
            if wrong := _wrong_times(rows[:, 0], self.repeat):
                raise InputError(wrong, str(self.file))
            self._rows = rows
        return self._rows

    def at(self, t):
        """B (..., 3) in T at t ps."""
        return _interpolated(self.rows(), self.repeat, t)


DRIVES = {
    "ramp": RampField,
    "points": PointsField,
    "sine": SineField,
    "pulse": PulseField,
    "rotating": RotatingField,
    "file": FileField,
}


def _check_form(value: Any) -> Any:
    """A table needs a form that there is; said here, since a union would list all that none of its branches likes."""
    if not isinstance(value, dict) or value.get("form") in DRIVES:
        return value
    form, known = value.get("form"), ", ".join(DRIVES)
    near = difflib.get_close_matches(str(form), DRIVES, n=1)
    what = "a field that changes in time needs a form" if form is None else f"form = {form!r} is none that there is"
    _refuse(f"{what}; did you mean {near[0]}?" if near else f"{what}; known are {known}")


def _tag(value: Any) -> str:
    """Names that no key has: they stand in the places of errors, where keys are looked for."""
    return "form " + (value["form"] if isinstance(value, dict) else getattr(value, "form", "constant"))


FieldInTime = Annotated[
    Annotated[FieldVector, Tag("form constant")]
    | Annotated[RampField, Tag("form ramp")]
    | Annotated[PointsField, Tag("form points")]
    | Annotated[SineField, Tag("form sine")]
    | Annotated[PulseField, Tag("form pulse")]
    | Annotated[RotatingField, Tag("form rotating")]
    | Annotated[FileField, Tag("form file")],
    Discriminator(_tag),
    BeforeValidator(_check_form),
]


def _each(law, t, *constants) -> np.ndarray:
    """A scalar law at t, a number or an array (...): (...) or, for a law with two results, (..., 2)."""
    t = np.asarray(t, float)
    values = np.array([law(one, *constants) for one in t.ravel().tolist()], dtype=float)
    return values.reshape(t.shape + values.shape[1:])


def _wrong_times(times: np.ndarray, repeat: bool) -> str:
    if not np.all(np.diff(times) > 0.0):
        return f"the times must ascend, {times[1:][np.diff(times) <= 0.0][0]:g} ps does not"
    return "one point cannot be repeated; give a second one" if repeat and len(times) < 2 else ""


def _refuse(text: str) -> None:
    """What pydantic places at the table of the field."""
    raise PydanticCustomError("field", "{text}", {"text": text})


def _interpolated(rows: np.ndarray, repeat: bool, t) -> np.ndarray:
    """(..., 3) at t, straight between ``rows`` (n, 4) of time and field."""
    times = rows[:, 0]
    t = _each(repeated, t, times[0], times[-1]) if repeat else np.asarray(t, float)
    return np.stack([np.interp(t, times, rows[:, k]) for k in (1, 2, 3)], axis=-1)


def _read(file: Path) -> np.ndarray:
    rows = []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", str(file)) from None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != 4 or not np.isfinite(row).all():
            raise InputError(f"expected four numbers ({COLUMNS}), got {line.strip()[:60]!r}", f"{file}, line {number}")
        rows.append(row)
    if not rows:
        raise InputError(f"there is no row in it; each needs {COLUMNS}", str(file))
    return np.array(rows)
