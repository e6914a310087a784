"""A step as a CUDA graph: one launch for the host instead of fifty, which is what counts for small systems.

The kernels of a step, their arguments and their order are the same in every step, and what changes (clock, histories, flags) is
read from the device. A graph that has been captured is tried against a step of single launches first: it must give the same bits.
"""

from collections.abc import Callable

import torch

from spinmd.cuda.arrays import DeviceArray

WARM = 3  # steps of single launches before a capture: kernels are loaded by then
LARGEST = 2_000_000  # atoms up to which it pays: beyond, a step takes longer than its launches, and trying a graph costs memory


class StepGraph:
    """``launch`` captured; ``replay()`` repeats it. Where it cannot be, torch, numba or the driver raise what they like."""

    def __init__(self, launch: Callable[[], None]):
        from numba import cuda

        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with cuda.defer_cleanup(), torch.cuda.graph(self._graph, stream=torch.cuda.current_stream()):
            launch()

    def replay(self) -> None:
        """One step; returns at once."""
        self._graph.replay()


def agrees(graph: StepGraph, step: Callable[[], None], back: Callable[[], None], arrays: list[DeviceArray]) -> bool:
    """Whether a replay gives the bits of ``step()``; ``back()`` goes to where both begin."""
    back()
    step()
    expected = [one.tensor.clone() for one in arrays]
    back()
    graph.replay()
    same = all(torch.equal(one.tensor, value) for one, value in zip(arrays, expected, strict=True))
    back()
    return same
