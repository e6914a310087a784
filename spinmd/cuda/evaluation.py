"""One evaluation on the device, of a state and a model of the host."""

from collections.abc import Callable
from typing import Any

import numpy as np

from spinmd.cuda.launch import own_stream
from spinmd.cuda.lists import OVERFLOW
from spinmd.cuda.model import DeviceModel
from spinmd.cuda.runtime import memory_explained
from spinmd.cuda.state import DeviceState
from spinmd.cuda.views import ModelView
from spinmd.protocols import Evaluation, Need
from spinmd.state import State


def evaluate_on_device(
    state: State, model: Any, need: Need, device_term: Callable[..., Any], precision: str = "float64"
) -> Evaluation:
    """``model.evaluate(need)`` on the GPU: copies over, evaluates, copies back. The state stays as it is, but for its first sort.

    Where a number is not finite, the host evaluates as well and says whose it is: DivergedError.
    """
    with memory_explained(state.natoms), own_stream():
        if not model.builds:
            model.sort_in_space()
        there = DeviceModel(DeviceState(state, precision), model, device_term)
        found = ModelView(there, model).evaluate(need)
        while there.lists.radii and (status := there.lists.status.host())[OVERFLOW]:
            there.lists.grow(status)
            there.grown()
            found = ModelView(there, model).evaluate(need)
    numbers = (found.energies, found.forces, found.fields, found.virial)
    return found if all(np.isfinite(one).all() for one in numbers) else model.evaluate(need)
