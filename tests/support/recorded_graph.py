"""A CUDA graph for numba's simulator: launches and torch's operations of a step, written down with their arguments and repeated.

What a graph may not contain is refused: copies between host and device, and questions of the host about numbers on the device. Like
a graph, a repetition knows nothing of what Python would decide anew.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ASKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


class RecordedGraph:
    """Has the place of ``spinmd.cuda.graph.StepGraph``."""

    def __init__(self, launch):
        from spinmd.cuda.arrays import transfers

        self._work = []  # functions that repeat one thing each
        self.kernels = []  # names of those launched
        before = (transfers.to_host, transfers.to_device)
        with launches(self._work, self.kernels), _Operations(self._work):
            launch()
        if before != (transfers.to_host, transfers.to_device):
            raise RuntimeError("a copy between host and device in a step")

    def replay(self):
        for repeat in self._work:
            repeat()


@contextmanager
def launches(work, kernels):
    """Launches are written down: functions that repeat them to ``work``, names to ``kernels``."""
    from spinmd.cuda.launch import Kernel

    plain = Kernel.__call__

    def written_down(kernel, count, *arguments):
        work.append(lambda: plain(kernel, count, *arguments))
        if count > 0:
            kernels.append(kernel.name)
        plain(kernel, count, *arguments)

    Kernel.__call__ = written_down
    try:
        yield
    finally:
        Kernel.__call__ = plain


class _Operations(TorchDispatchMode):
    def __init__(self, work):
        super().__init__()
        self._work = work

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.__name__.split(".")[0] in ASKS:
            raise RuntimeError(f"{function} asks the device in a step")
        result = function(*args, **kwargs)

        def repeat():
            again = function(*args, **kwargs)
            for mine, new in zip(_tensors(result), _tensors(again), strict=True):
                if mine.data_ptr() != new.data_ptr():
                    mine.copy_(new)

        self._work.append(repeat)
        return result


def _tensors(result):
    return [one for one in (result if isinstance(result, tuple | list) else [result]) if isinstance(one, torch.Tensor)]
