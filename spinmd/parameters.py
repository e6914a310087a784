"""The base of every kind's ``Parameters`` and the field types that they use.

Strict: an unknown name is an error. Quantities may be plain numbers in internal units or strings such as ``"20 meV"``.
``InputFile`` paths are relative to the deck (the validation context's ``folder``) and become absolute.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from spinmd.errors import InputError
from spinmd.units import UNITS, convert


class Parameters(BaseModel):
    """Base class: unknown names are refused, defaults are checked, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True)


def _quantity(dimension: str):
    def read(value: Any) -> float:
        try:
            return convert(value, dimension)
        except InputError as error:
            raise PydanticCustomError("quantity", "{reason}", {"reason": error.message}) from None

    internal = next(iter(UNITS[dimension]))
    return Annotated[float, BeforeValidator(read), Field(json_schema_extra={"unit": internal, "dimension": dimension})]


Length = _quantity("length")
Time = _quantity("time")
Energy = _quantity("energy")
Temperature = _quantity("temperature")
Mass = _quantity("mass")
Moment = _quantity("moment")
MagneticField = _quantity("field")
Rate = _quantity("rate")
Velocity = _quantity("velocity")
Pressure = _quantity("pressure")
Angle = _quantity("angle")


def _path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)):
        raise PydanticCustomError("path", "expected a file name, got {value}", {"value": repr(value)})
    path = Path(value).expanduser()
    folder = (info.context or {}).get("folder")
    if not path.is_absolute() and folder is not None:
        path = Path(folder) / path
    return path


def _input_file(value: Any, info: ValidationInfo) -> Path:
    path = _path(value, info)
    if (info.context or {}).get("begun"):  # a run that goes on does not read it again
        return path
    if not path.exists():
        raise PydanticCustomError("file", "there is no file {path}", {"path": str(path)})
    if path.is_dir():
        raise PydanticCustomError("file", "{path} is a folder, a file is expected", {"path": str(path)})
    return path


InputFile = Annotated[
    Path, BeforeValidator(_input_file), Field(json_schema_extra={"unit": "file, relative to the deck"})
]
OutputFile = Annotated[Path, BeforeValidator(_path), Field(json_schema_extra={"unit": "file, relative to the deck"})]
Vector = tuple[float, float, float]


def written_place(loc: tuple, data: Any, missing: bool) -> tuple:
    """The part of a pydantic place that a user wrote in ``data``: branches of unions left out, a ``missing`` name kept."""
    place: tuple = ()
    for part in loc:
        entry = isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)
        if entry or (isinstance(data, dict) and part in data):
            data = data[part]
            place += (part,)
    return (*place, loc[-1]) if missing else place
