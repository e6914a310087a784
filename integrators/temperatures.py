"""How decks give temperatures and other values of baths: one for all, or by element and group; constant or changing in time."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from spinmd.integrators.baths import Ramp, Temperatures
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


_TEMPERATURE, _RATE, _NUMBER = (TypeAdapter(Annotated[kind, Field(ge=0.0)]) for kind in (Temperature, Rate, float))
RAMP_KEYS = {"start", "end", "time"}


def _checked(adapter: TypeAdapter, value: Any, name: str = "") -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]) if part != "")
        raise PydanticCustomError(
            "value", "{place}{reason}", {"place": place + ": " if place else "", "reason": first["msg"]}
        ) from None


def _one_temperature(value: Any, name: str = "") -> Any:
    if isinstance(value, TemperatureRamp):
        return value
    if isinstance(value, dict):
        return _checked(TypeAdapter(TemperatureRamp), value, name)
    return _checked(_TEMPERATURE, value, name)


def _temperature(value: Any) -> Any:
    if isinstance(value, dict) and not (set(value) & RAMP_KEYS):
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


BathTemperature = Annotated[
    float | TemperatureRamp | dict[str, float | TemperatureRamp],
    BeforeValidator(_temperature),
    Field(json_schema_extra={"unit": "K"}),
]
BathRate = Annotated[float | dict[str, float], _by_name(_RATE), Field(json_schema_extra={"unit": "1/ps"})]
BathNumber = Annotated[float | dict[str, float], _by_name(_NUMBER)]


def temperatures(value: Any, duration: float | None, place: str) -> Temperatures:
    """What a deck gives as temperature, for a stage of ``duration`` ps."""

    def one(entry: Any) -> Ramp:
        return entry.ramp(duration) if isinstance(entry, TemperatureRamp) else Ramp.constant(entry)

    if isinstance(value, dict):
        return Temperatures({name: one(entry) for name, entry in value.items()}, place)
    return Temperatures(one(value), place)


def any_positive(value: float | dict[str, float]) -> bool:
    """Whether some atom has a value above zero."""
    return max(value.values()) > 0.0 if isinstance(value, dict) else value > 0.0
