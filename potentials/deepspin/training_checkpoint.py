"""The checkpoint of a training: written as a whole, and refused where it belongs to another deck or other data. Needs torch."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinmd.errors import InputError
from spinmd.potentials.deepspin.training_parameters import TrainingDeck

MAY_CHANGE = ("training.steps",)  # a longer training may go on from a shorter one


def identity(deck: TrainingDeck, systems: dict) -> dict[str, Any]:
    """What makes two trainings the same: {"deck": {"training.rate": ..., ...}, "data": {"train": digest, ...}}.

    Where the frames lie (``data``) does not matter, which they are does.
    """
    values: dict[str, Any] = {}

    def flatten(table: dict, place: str) -> None:
        for name, value in table.items():
            here = f"{place}.{name}" if place else name
            if isinstance(value, dict):
                flatten(value, here)
            else:
                values[here] = value

    flatten(json.loads(deck.model_dump_json(exclude={"output", "title", "data"})), "")
    digests = {}
    for name, parts in systems.items():
        digest = hashlib.sha256()
        for system in parts:
            digest.update(",".join(system.symbols).encode())
            for array in (
                system.box,
                system.coord,
                system.spin,
                system.energy,
                system.force,
                system.field,
                system.virial,
            ):
                digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        digests[name] = digest.hexdigest()
    return {"deck": values, "data": digests}


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace a checkpoint as a whole."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path, deck: TrainingDeck, systems: dict) -> dict[str, Any]:
    """The content of a checkpoint of this training.

    Raises InputError for a file that is none, with the key of the deck or the set of frames that is another one's, and for
    fewer steps than were done.
    """
    place = "--resume"
    try:
        content = torch.load(path, weights_only=True)
        was = json.loads(content["identity"])
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path} to go on from; leave --resume out", place) from None
    except Exception as error:  # torch raises whatever its unpickler meets
        raise InputError(f"{path} is not a readable checkpoint ({type(error).__name__}); delete it", place) from None
    now = identity(deck, systems)
    for key in sorted(now["deck"].keys() | was["deck"].keys()):
        old, new = (json.dumps(side["deck"].get(key)) for side in (was, now))
        if old != new and key not in MAY_CHANGE:
            raise InputError(f"{key} is {new} here and {old} in {path}; restore it, or delete that file", place)
    for name, digest in now["data"].items():
        if was["data"].get(name) != digest:
            raise InputError(
                f"the {name} frames are not those of {path}; restore the data and how they are split, or delete that file",
                place,
            )
    if content["step"] > deck.training.steps:
        raise InputError(
            f"training.steps is {deck.training.steps}, and {path} is at step {content['step']} already; ask for more",
            place,
        )
    return content
