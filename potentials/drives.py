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
        share = np.clip((np.asarray(t, float) - self.begin) / self.time, 0.0, 1.0)[..., None]
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

    def at(self, t):
        """B (..., 3) in T at t ps."""
        return _interpolated(np.array(self.times), np.array(self.fields), self.repeat, t)


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
        angle = _angle(self.frequency, self.phase, np.asarray(t, float) - self.begin)[..., None]
        return np.array(self.offset) + np.array(self.amplitude) * np.sin(angle)


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
        since = np.asarray(t, float) - self.centre
        if self.envelope == "gaussian":
            size = np.exp(-0.5 * (since / self.width) ** 2)
        elif self.envelope == "square":
            size = np.where(np.abs(since) <= 0.5 * self.width, 1.0, 0.0)
        else:
            size = np.sinc(2.0 * since / self.width)
        size = size * np.cos(_angle(self.frequency, self.phase, since))
        return np.array(self.offset) + np.array(self.amplitude) * size[..., None]


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
        angle = _angle(self.frequency, self.phase, np.asarray(t, float) - self.begin)[..., None]
        n, b = np.array(self.axis) / np.linalg.norm(self.axis), np.array(self.amplitude)
        along = (n @ b) * n
        return np.array(self.offset) + along + (b - along) * np.cos(angle) + np.cross(n, b) * np.sin(angle)


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
        rows = self.rows()
        return _interpolated(rows[:, 0], rows[:, 1:], self.repeat, t)


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


def _angle(frequency: float, phase: float, time) -> np.ndarray:
    """2π f t + phase, with the phase in degrees, in radians."""
    return 2.0 * np.pi * frequency * time + np.radians(phase)


def _wrong_times(times: np.ndarray, repeat: bool) -> str:
    if not np.all(np.diff(times) > 0.0):
        return f"the times must ascend, {times[1:][np.diff(times) <= 0.0][0]:g} ps does not"
    return "one point cannot be repeated; give a second one" if repeat and len(times) < 2 else ""


def _refuse(text: str) -> None:
    """What pydantic places at the table of the field."""
    raise PydanticCustomError("field", "{text}", {"text": text})


def _interpolated(times: np.ndarray, values: np.ndarray, repeat: bool, t) -> np.ndarray:
    """(..., 3) at t, straight between ``times`` (n,) and ``values`` (n, 3)."""
    t = np.asarray(t, float)
    if repeat:
        t = times[0] + np.mod(t - times[0], times[-1] - times[0])
    return np.stack([np.interp(t, times, values[:, k]) for k in range(3)], axis=-1)


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
