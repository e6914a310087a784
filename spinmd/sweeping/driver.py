"""``spinmd.sweep``: run all points of a sweep, a few at a time, and keep its table of results.

import spinmd

result = spinmd.sweep("fe.toml", {"integrator.timestep": ["0.5 fs", "1 fs", "2 fs"]}, seeds=4)
print(result["timestep"], result.mean["spin_temperature"], result.error["spin_temperature"])
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spinmd.device import check_device
from spinmd.errors import DiskError, InputError
from spinmd.segments import FolderLock, refusal, write_json
from spinmd.sweeping import plan as planning
from spinmd.sweeping import point
from spinmd.sweeping.plan import Plan, Point
from spinmd.sweeping.table import Sweep, axis_arrays, read_sweep, statistics, write_table

POLL = 0.2  # s between two looks at the clock and at the wish to stop
PUBLISH = 1.0  # s at least between two versions of the table
STOP_FILE = "stop"


def sweep(
    deck: Any,
    over: Mapping[str, Any] | Iterable[str] = (),
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    seeds: int = 1,
    folder: str | Path | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    discard: float = 0.2,
    force: bool = False,
    progress: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Sweep:
    """Run a deck at every point of a grid of values, each in a process of its own; returns the table of results.

    deck, overrides  as in ``load_deck``
    over       the grid: key -> values, or what ``--over`` takes; the first key is the outermost
    seeds      runs for each point of the grid, with run.seed, run.seed + 1, ...
    folder     of all files; default: the deck's name and "-sweep", beside the deck. A sweep that is there already is gone on
               with: finished points are kept, values and seeds may have been added
    jobs       points at a time; default: so many that jobs × threads is the number of cores, and one where points compute on a GPU
    threads    of each point; default: what the deck says, else 1, else the cores' number divided by ``jobs``
    scheduler  address or file of a Dask scheduler that has the points run; default: processes of this machine
    discard    part of the last stage's steps that means leave out at its beginning
    force      replace a sweep that is there
    progress   a line for each point, and a bar on a terminal
    stop       asked all the time; True ends all runs after a checkpoint

    A point that fails does not stop the others and raises nothing: see ``Sweep.points["status"]``. Raises InputError for wrong
    input, with nothing written.
    """
    if isinstance(discard, bool) or not 0.0 <= discard < 1.0:
        raise InputError(f"expected a part of the run, at least 0 and below 1, got {discard!r}", "--discard")
    plan = planning.make_plan(deck, over, overrides, seeds)
    jobs, threads_of = share_cores(plan, jobs, threads, scheduler is not None)
    if scheduler is None and any(map(on_gpu, plan.points)):
        check_device("cuda", "run.device")
    home = Path(folder).absolute() if folder is not None else plan.default_folder()
    found = planning.read_manifest(home)
    planning.adopt(plan, None if force else found, home)
    client = None
    if scheduler is not None:
        from spinmd.sweeping import cluster

        client = cluster.connect(scheduler)
    lock = FolderLock(home / planning.HIDDEN)
    try:
        planning.check_builds(plan, stop)
        with _writing_in(home):
            lock.path.parent.mkdir(parents=True, exist_ok=True)
            if not lock.acquire():
                raise InputError(
                    f"another sweep is running in {home} at this moment; wait for it, or use -o", "--output"
                )
            if force:
                planning.remove_sweep(home, found)
            stop_file = home / planning.HIDDEN / STOP_FILE
            stop_file.unlink(missing_ok=True)
            sweeping = _Sweeping(plan, home, discard, progress)
            write_json(home / planning.MANIFEST, planning.manifest(plan), indent=1)
            tasks = sweeping.tasks(threads, threads_of)
            if client is None:
                backend: Any = _Local(jobs, sweeping.step)
            else:
                backend = cluster.Cluster(client, jobs, sweeping.step, stop_file)
            try:
                sweeping.run(tasks, backend, stop)
            finally:
                backend.close()
                sweeping.close()
    finally:
        if client is not None:
            client.close()
        lock.release()
    return read_sweep(home / planning.TABLE)


@contextmanager
def _writing_in(home: Path) -> Iterator[None]:
    """Turns the disk's refusals into one sentence."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write in {home}: {refusal(error)}; the same command goes on with what is there"
        ) from error


def on_gpu(one: Point) -> bool:
    """Whether a point computes on the GPU, which several of them would have to share."""
    return one.tables["run"].get("device") == "cuda"


def share_cores(
    plan: Plan, jobs: int | None, threads: int | None, elsewhere: bool
) -> tuple[int | None, Callable[[Point], int]]:
    """How many points at a time (None: no limit), and the threads of a point."""
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"expected a whole number, at least 1, got {value!r}", name)
    from spinmd.backend import available_threads

    cores = available_threads()

    def threads_of(one: Point) -> int:
        share = 1 if jobs is None or elsewhere else max(1, cores // jobs)
        return threads or one.tables["run"].get("threads") or share

    most = max(map(threads_of, plan.points))
    if not elsewhere and most > cores:
        raise InputError(
            f"{most} threads asked for, this process may use 1 to {cores}", "--threads" if threads else "run.threads"
        )
    if jobs is None and not elsewhere:
        jobs = 1 if any(map(on_gpu, plan.points)) else max(1, cores // most)
    return jobs, threads_of


class _Local:
    """Points as processes of this machine, ``jobs`` at a time, each followed by a thread."""

    def __init__(self, jobs: int, step: Callable[[tuple[int, ...], int], None]):
        self.limit = jobs
        self._step = step
        self._threads = ThreadPoolExecutor(jobs)
        # the first point compiles the kernels while the others wait, instead of all of them compiling the same
        self.warm = False

    def submit(self, one: Point, task: dict[str, Any]) -> Future:
        return self._threads.submit(point.run_point, task, partial(self._report, one.index))

    def _report(self, index: tuple[int, ...], step: int) -> None:
        self.warm = self.warm or step > 0
        self._step(index, step)

    def check(self, cancelled: bool) -> None:
        """Nothing can be lost here."""

    def stop(self) -> None:
        point.stop_all()

    def close(self) -> None:
        point.stop_all()  # none is left but after an exception
        self._threads.shutdown()


class _Sweeping:
    """The state of a sweep that runs: records of all points, the table, the bar."""

    def __init__(self, plan: Plan, home: Path, discard: float, progress: bool):
        self.plan, self.home, self.discard, self.progress = plan, home, discard, progress
        self.axes = axis_arrays(plan)
        self.records: dict[tuple[int, ...], dict[str, Any]] = {}
        self._steps: dict[tuple[int, ...], int] = {}
        self._published = 0.0
        self._states: list = []
        self._earlier = self._read_earlier()
        entries = [(tuple(e["index"]), e["name"], e["seed"], e["total"], e["first"], None) for e in plan.kept]
        entries += [(p.index, p.name, p.seed, p.total, p.first, p.tables) for p in plan.points]
        for index, name, seed, total, first, tables in entries:
            self._look(index, name, seed, total, first, tables)
        total = sum(one.total for one in plan.points)
        self._bar = tqdm(
            total=total,
            initial=sum(self._steps.get(one.index, 0) for one in plan.points),
            disable=not progress or not sys.stderr.isatty(),
            unit=" steps", leave=False, dynamic_ncols=True,
        )  # fmt: skip

    def _read_earlier(self) -> dict[str, dict[str, Any]]:
        """What the table of an earlier command says, by file name: what a run's own file does not tell."""
        try:
            points = read_sweep(self.home / planning.TABLE).points
        except InputError:  # there is none, or it is damaged: it is made anew from the runs
            return {}
        names = ("status", "message", "exit_code", "seconds")
        rows = zip(points["file"].flat, *(points[name].flat for name in names), strict=True)
        return {file: dict(zip(names, rest, strict=True)) for file, *rest in rows}

    def _look(self, index, name, seed, total, first, tables) -> None:
        """What there is of a point: from its own file, and for the rest from the earlier table."""
        path = planning.run_file(self.home, name)
        state, step = planning.progress_of(path, tables, total)
        before = self._earlier.get(path.name, {})
        record = {"status": "waiting", "message": "", "exit_code": -1, "seconds": 0.0, **before}
        record |= {"name": name, "seed": seed, "steps": step, "seconds": float(record["seconds"])}
        if state == "finished":
            message = record["message"] if record["status"] == "finished" else ""
            record |= {"status": "finished", "exit_code": 0, "message": message}
            record["statistics"] = statistics(path, total, first, self.discard)
        elif record["status"] == "finished":
            record |= {"status": "waiting", "message": "its file has gone or is damaged", "exit_code": -1}
        self.records[index] = record
        self._steps[index] = step

    def tasks(self, threads: int | None, threads_of: Callable[[Point], int]) -> list[tuple[Point, dict[str, Any]]]:
        """What is left to run."""
        source = self.plan.source
        hidden = self.home / planning.HIDDEN
        result = []
        for one in self.plan.points:
            if self.records[one.index]["status"] == "finished":
                continue
            path = planning.run_file(self.home, one.name)
            one.tables["output"]["file"] = str(path)
            task = {
                "file": str(path), "tables": one.tables, "total": one.total, "text": source.text, "name": source.name,
                "folder": str(source.folder), "log": str(hidden / f"{one.name}.log"),
                "threads": threads_of(one), "explicit_threads": threads,
            }  # fmt: skip
            result.append((one, task))
        if self.progress and len(result) < len(self.plan.points):
            self._line(f"{len(self.plan.points) - len(result)} of {len(self.plan.points)} points are finished already")
        return result

    def run(self, tasks: list[tuple[Point, dict[str, Any]]], backend: Any, stop: Callable[[], bool] | None) -> None:
        """Hand out all tasks and wait for them."""
        waiting = deque(tasks)
        running: dict[Future, Point] = {}
        stopped = False
        self.publish(force=True)
        while waiting or running:
            while waiting and (backend.warm or not running) and (backend.limit is None or len(running) < backend.limit):
                one, task = waiting.popleft()
                running[backend.submit(one, task)] = one
                self._describe()
            done, _ = wait(running, POLL, FIRST_COMPLETED)
            for future in done:
                backend.warm = True
                self._finish(running.pop(future), future)
            self.publish()
            backend.check(any(future.cancelled() for future in done) and not stopped)
            if stop is not None and stop():
                backend.stop()  # again and again: a process may just be starting
                if not stopped:
                    self._line("stopping: the runs write their checkpoints")
                stopped = True
                waiting.clear()

    def step(self, index: tuple[int, ...], step: int) -> None:
        """A point is at this step (called from other threads)."""
        self._bar.n += step - self._steps[index]
        self._steps[index] = step
        self._bar.update(0)

    def _finish(self, one: Point, future: Future) -> None:
        record = self.records[one.index]
        try:
            outcome = future.result()
        except CancelledError:
            return  # a point that had not begun when the sweep was stopped, or whose scheduler has gone
        except Exception as error:  # a worker died again and again, or cannot import spinmd
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            outcome = {
                "status": "crashed",
                "message": message,
                "exit_code": 1,
                "steps": record["steps"],
                "seconds": 0.0,
            }
        # a resumed run counts the seconds of its earlier parts, too
        record |= {**outcome, "seconds": outcome["seconds"] or record["seconds"]}
        if outcome["status"] == "finished":
            path = planning.run_file(self.home, one.name)
            try:
                record["statistics"] = statistics(path, one.total, one.first, self.discard)
            except (InputError, OSError, KeyError) as error:
                record |= {"status": "failed", "message": f"its file cannot be read: {error}", "exit_code": 1}
        self.step(one.index, outcome["steps"])
        text = f"{one.name}: {record['status']}"
        if record["status"] == "finished":
            text += f", {outcome['steps']} steps in {record['seconds']:.1f} s"
        self._line(text + (f"; {record['message']}" if record["message"] else ""))
        self._describe()

    def publish(self, force: bool = False) -> None:
        """Write the table, if there is something new and the last one is a moment old."""
        states = [(record["status"], record["steps"]) for record in self.records.values()]
        if force or states != self._states and time.monotonic() - self._published > PUBLISH:
            self._states, self._published = states, time.monotonic()
            write_table(self.plan, self.axes, self.home, self.records, self.discard)

    def _describe(self) -> None:
        done = sum(self.records[one.index]["status"] == "finished" for one in self.plan.points)
        self._bar.set_description_str(f"{done}/{len(self.plan.points)} points")

    def _line(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        self.publish(force=True)
        self._bar.close()
