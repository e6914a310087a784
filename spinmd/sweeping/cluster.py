"""The points of a sweep on a Dask cluster: tasks that start the same processes on the workers.

Workers see the same files under the same paths as the sweep itself (a shared file system). Where a worker dies, the scheduler
gives its points to another one, which goes on from their last checkpoints.
"""

import json
import logging
import re
import time
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from spinmd import __version__
from spinmd.errors import InputError, PointsFailedError
from spinmd.sweeping import point

PLACE = "--scheduler"
PATIENCE = 8.0  # s for the first answer of a scheduler
LOST = 60.0  # s after which a scheduler that does not answer any more is given up


def connect(address: str):
    """A ``distributed.Client``. Raises InputError where the package is missing or nobody answers within a few seconds, or where the
    cluster has another spinmd than this one, or none."""
    try:
        from distributed import Client
    except ImportError:
        raise InputError('this needs the package distributed: pip install "spinmd[cluster]"', PLACE) from None
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is said here, in a sentence
    target: dict[str, Any] = {"address": _address(address)}
    begin = time.monotonic()
    try:
        client = Client(**target, timeout=PATIENCE, name="spinmd sweep")
    except Exception as error:  # OSError, TimeoutError, ValueError, or whatever a foreign server provokes
        waited = time.monotonic() - begin
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"no Dask scheduler answers at {target['address']} (after {waited:.0f} s: {reason[:100]}); start one with "
            "`dask scheduler`, and workers with `dask worker ADDRESS`",
            PLACE,
        ) from None
    try:
        _check_versions(client)
    except BaseException:
        client.close()
        raise
    if not client.scheduler_info()["workers"]:
        warnings.warn("the cluster has no workers yet; the points wait for them", stacklevel=2)
    return client


def _check_versions(client: Any) -> None:
    """InputError unless scheduler and workers have this version of spinmd."""
    question = "__import__('spinmd').__version__"
    try:
        found = {"the scheduler": client.run_on_scheduler(eval, question)}
        found |= {f"the worker {address}": version for address, version in client.run(eval, question).items()}
    except ModuleNotFoundError as error:
        raise InputError(
            f"the cluster's Python says: {error}; install spinmd there, in the environments of scheduler and workers",
            PLACE,
        ) from None
    for who, version in found.items():
        if version != __version__:
            raise InputError(f"{who} has spinmd {version}, this is {__version__}; install the same everywhere", PLACE)


def _address(text: str) -> str:
    """tcp://host:port from itself, from host:port, or from the file that `dask scheduler --scheduler-file` writes."""
    path = Path(text)
    if path.is_file():
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                "is no scheduler file; `dask scheduler --scheduler-file FILE` writes one", f"{PLACE} {text}"
            ) from None
    if re.fullmatch(r"[\w.-]+:\d+", text):
        return f"tcp://{text}"
    if not re.fullmatch(r"\w+://\S+:\d+", text):
        raise InputError(
            f"cannot read {text!r}; give tcp://host:port, or the file that `dask scheduler --scheduler-file` has written",
            PLACE,
        )
    return text


def run_on_worker(task: dict[str, Any]) -> dict[str, Any]:
    """A point, as a task on a worker."""
    from distributed import get_worker

    worker = get_worker()

    def report(step: int) -> None:
        worker.log_event(task["topic"], {"index": task["index"], "step": step})

    if Path(task["stop"]).exists():
        return {"status": "stopped", "message": "not begun", "exit_code": 143, "steps": 0, "seconds": 0.0}
    report(0)
    return point.run_point(task, report)


class Cluster:
    """Points as tasks of a Dask cluster, ``jobs`` at a time (None: as many as it takes)."""

    warm = True  # workers may be on many machines, each with its own cache of kernels

    def __init__(self, client: Any, jobs: int | None, step: Callable[[tuple[int, ...], int], None], stop_file: Path):
        self.limit = jobs
        self._client = client
        self._stop_file = stop_file
        self._topic = f"spinmd-sweep-{uuid.uuid4().hex}"
        self._executor = client.get_executor(pure=False)
        self._futures: dict[tuple[int, ...], Future] = {}
        self._begun: set[tuple[int, ...]] = set()
        self._step = step
        self._answered = time.monotonic()
        client.subscribe_topic(self._topic, self._hear)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        index, step = tuple(event[1]["index"]), event[1]["step"]
        self._begun.add(index)
        self._step(index, step)

    def submit(self, one: Any, task: dict[str, Any]) -> Future:
        task = {**task, "topic": self._topic, "index": one.index, "stop": str(self._stop_file)}
        self._futures[one.index] = self._executor.submit(run_on_worker, task)
        return self._futures[one.index]

    def check(self, cancelled: bool) -> None:
        """PointsFailedError where the scheduler has gone: its points stop after a checkpoint, and can be gone on with.

        cancelled  whether a point has come back without having been stopped
        """
        if self._client.status == "running":
            self._answered = time.monotonic()
        if cancelled or self._client.status == "closed" or time.monotonic() - self._answered > LOST:
            raise PointsFailedError(
                "the Dask scheduler does not answer any more; the same command goes on with what is there, here or elsewhere"
            )

    def stop(self) -> None:
        """Ask all running points to stop, and take back those that wait for a worker."""
        self._stop_file.touch()
        for index, future in self._futures.items():
            if index not in self._begun:
                future.cancel()

    def close(self) -> None:
        self._client.unsubscribe_topic(self._topic)
        self._executor.shutdown(wait=False)
