"""How decks give temperatures and other values of baths: one for all, or by element and group; constant or changing in time."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from spinmd.integrators.baths import Ramp, Temperatures, rescaled_temperature
from spinmd.parameters import Parameters, Rate, Temperature, Time


class TemperatureRamp(Parameters):
    """A temperature that changes linearly from the start of the stage on, and stays at its end value."""

    start: Temperature = Field(ge=0.0, description="at the start of the stage")
    end: Temperature = Field(ge=0.0, description="at the end")
    time: Time | None = Field(None, gt=0.0, description="how long it takes; default: the whole stage")

    def ramp(self, duration: float | None) -> Ramp:
        """As a Ramp; ``duration``: of the stage, ps (None: not known, then the end value at once)."""
        time = self.time if self.time is not None else duration
        return Ramp(((0.0, self.start), (time, self.end))) if time else Ramp.constant(self.end)


class QuantumRescaling(Parameters):
    """Temperature of a classical bath in which the magnetisation is that of the quantum magnet at the given temperature.

    T_bath = T_c (T/T_c)^exponent below T_c, and T above it. Classical spins lose M linearly in T, real ones by Bloch's law; the
    exponent is fitted to the measured M(T): 2.876 for Fe, 2.369 for Co, 2.322 for Ni, 1.28 for Gd. Evans, Atxitia, Chantrell,
    Phys. Rev. B 91, 144425 (2015), eq. 4. T_c is that of the model, not of the experiment.
    """

    critical_temperature: Temperature = Field(gt=0.0, description="T_c of the model")
    exponent: float = Field(ge=1.0, description="see above")

    def __call__(self, kelvin: float) -> float:
        """K of the bath that stands for ``kelvin``."""
        return rescaled_temperature(kelvin, self.critical_temperature, self.exponent)


_TEMPERATURE, _RATE, _NUMBER = (TypeAdapter(kind) for kind in (Temperature, Rate, float))
RAMP_KEYS = ("start", "end", "time")


def _refuse(name: str, reason: str) -> None:
    where = f"{name}: " if name else ""
    raise PydanticCustomError("value", "{where}{reason}", {"where": where, "reason": reason})


def _checked(adapter: TypeAdapter, value: Any, name: str = "") -> float:
    """A finite number, at least zero; ``name``: of the element, group or key that it is for."""
    if isinstance(value, bool):
        _refuse(name, f"expected a number, got {str(value).lower()}")
    try:
        number = adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        _refuse(name, first["msg"] if first["type"] == "quantity" else f"expected a number, got {value!r}")
    if not 0.0 <= number < float("inf"):
        _refuse(name, f"must be at least 0, got {value!r}")
    return number


def _one_temperature(value: Any, name: str = "") -> float | TemperatureRamp:
    if isinstance(value, TemperatureRamp):
        return value
    if not isinstance(value, dict):
        return _checked(_TEMPERATURE, value, name)
    unknown = [key for key in value if key not in RAMP_KEYS]
    if unknown:
        _refuse(name, f"{unknown[0]} is unknown in a ramp; known are {', '.join(RAMP_KEYS)}")
    missing = [key for key in ("start", "end") if key not in value]
    if missing:
        _refuse(name, f"a ramp needs {missing[0]}, for example {{ start = 10, end = 900 }}")
    try:
        return TemperatureRamp.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(filter(None, (name, str(first["loc"][0]))))
        reason = {"greater_than": "must be above 0", "greater_than_equal": "must be at least 0"}.get(first["type"])
        _refuse(key, f"{reason}, got {first['input']!r}" if reason else first["msg"])


def _temperature(value: Any) -> Any:
    if isinstance(value, dict) and not any(key in value for key in RAMP_KEYS):
        if not value:
            raise PydanticCustomError("empty", "an empty table; name an element or a group")
        return {name: _one_temperature(one, name) for name, one in value.items()}
    return _one_temperature(value)


def _by_name(adapter: TypeAdapter):
    def read(value: Any) -> Any:
        if isinstance(value, dict):
            if not value:
                raise PydanticCustomError("empty", "an empty table; name an element or a group")
            return {name: _checked(adapter, one, name) for name, one in value.items()}
        return _checked(adapter, value)

    return BeforeValidator(read)


class TemperatureLadder(Parameters):
    """Temperatures from a first to a last one."""

    start: Temperature = Field(gt=0.0, description="the lowest")
    end: Temperature = Field(gt=0.0, description="the highest")
    count: int = Field(ge=2, description="how many")
    spacing: Literal["geometric", "linear"] = Field(
        "geometric", description="geometric: neighbours have one ratio; linear: one difference"
    )

    def values(self) -> tuple[float, ...]:
        """K, ascending where end is above start."""
        between = np.geomspace if self.spacing == "geometric" else np.linspace
        return tuple(float(kelvin) for kelvin in between(self.start, self.end, self.count))


def _ladder(value: Any) -> tuple[float, ...]:
    if isinstance(value, dict):
        known = TemperatureLadder.model_fields
        if unknown := [key for key in value if key not in known]:
            _refuse("", f"{unknown[0]} is unknown in a ladder of temperatures; known are {', '.join(known)}")
        if missing := [key for key, field in known.items() if field.is_required() and key not in value]:
            _refuse("", f"a ladder needs {missing[0]}, for example {{ start = 100, end = 1000, count = 8 }}")
        try:
            return TemperatureLadder.model_validate(value).values()
        except ValidationError as error:
            first = error.errors()[0]
            reason = {
                "greater_than": "must be above 0",
                "greater_than_equal": "must be at least 2",
                "literal_error": 'expected "geometric" or "linear"',
            }.get(first["type"])
            _refuse(str(first["loc"][0]), f"{reason}, got {first['input']!r}" if reason else first["msg"])
    if not isinstance(value, (list, tuple)):
        _refuse("", f"expected a list, or a table such as {{ start = 100, end = 1000, count = 8 }}, got {value!r}")
    return tuple(_checked(_TEMPERATURE, one, f"number {k}") for k, one in enumerate(value))


LadderTemperatures = Annotated[tuple[float, ...], BeforeValidator(_ladder), Field(json_schema_extra={"unit": "K"})]
BathTemperature = Annotated[
    float | TemperatureRamp | dict[str, float | TemperatureRamp],
    BeforeValidator(_temperature),
    Field(json_schema_extra={"unit": "K"}),
]
BathRate = Annotated[float | dict[str, float], _by_name(_RATE), Field(json_schema_extra={"unit": "1/ps"})]
BathNumber = Annotated[float | dict[str, float], _by_name(_NUMBER)]


def temperatures(
    value: Any, duration: float | None, place: str, rescaling: QuantumRescaling | None = None
) -> Temperatures:
    """What a deck gives as temperature, for a stage of ``duration`` ps."""

    def one(entry: Any) -> Ramp:
        return entry.ramp(duration) if isinstance(entry, TemperatureRamp) else Ramp.constant(entry)

    if isinstance(value, dict):
        return Temperatures({name: one(entry) for name, entry in value.items()}, place, rescaling)
    return Temperatures(one(value), place, rescaling)


def any_positive(value: float | dict[str, float]) -> bool:
    """Whether some atom has a value above zero."""
    return max(value.values()) > 0.0 if isinstance(value, dict) else value > 0.0
