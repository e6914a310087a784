"""One point of a sweep in a process of its own.

``run_point`` starts the process, follows its steps and says what became of it; ``child`` is what runs in there. The two
speak in lines of JSON, and the errors of the process go to a log file. A point that is there already is not run again, an
unfinished one is gone on with, so that ``run_point`` may be called again at any time and anywhere on a shared file system.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spinmd.errors import DivergedError, InputError, SpinmdError
from spinmd.output import parts_folder
from spinmd.segments import locked
from spinmd.sweeping.plan import progress_of
from spinmd.toml_source import TomlSource

CODE = "import sys; from spinmd.sweeping.point import child; sys.exit(child())"
REPORT = 0.3  # s between two reports of the step
LOOK = 1.0  # s between two looks for the file that asks for a stop
LOCK_WAIT = 600.0  # s to wait for the process of a worker that died: it stops after its next step
THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_running: set[subprocess.Popen] = set()
_signalled: set[tuple[int, int]] = set()


def run_point(task: dict[str, Any], report: Callable[[int], None] = lambda step: None) -> dict[str, Any]:
    """Run a point in a process of its own, to its end; returns status, message, exit_code, steps, seconds.

    task    file (of the run), tables, text, name and folder (of the deck), total (steps), threads, log and stop (files; the
            run stops when the second appears)
    report  called with the step now and then
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_search_path())}
    environment |= dict.fromkeys(THREAD_VARIABLES, str(task["threads"]))
    log = Path(task["log"])
    last: dict[str, Any] = {}
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for the sweep, which passes it on
        )  # fmt: skip
        _running.add(process)
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps({**task, "parent": os.getpid()}, default=str).encode())
                process.stdin.close()
            for line in process.stdout:
                with contextlib.suppress(ValueError):
                    last |= json.loads(line)
                    report(last.get("step", 0))
            code = process.wait()
        finally:
            _running.discard(process)
            _signalled.difference_update({(process.pid, number) for number in signal.Signals})
            process.stdout.close()
    outcome = {"steps": last.get("step", 0), "seconds": last.get("seconds", 0.0), **_meaning(code, last, log)}
    if not log.stat().st_size:
        log.unlink()
    return outcome


def stop_all(number: int = signal.SIGTERM) -> None:
    """Send a signal, once, to all processes of points that this process has started."""
    for process in list(_running):
        if (process.pid, number) not in _signalled:
            _signalled.add((process.pid, number))
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def kill_all() -> None:
    """End all processes of points at once, without another checkpoint."""
    stop_all(signal.SIGKILL)


def _search_path() -> list[str]:
    """Where this process finds modules, for the other one: plug-ins, and spinmd itself in a checkout."""
    here = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys([here, *(os.path.abspath(entry) for entry in sys.path)]))


def _meaning(code: int, last: dict[str, Any], log: Path) -> dict[str, Any]:
    """The exit code of a point's process in words."""
    message = last.get("message", "")
    if code == 0 and last.get("finished"):
        return {"status": "finished", "message": message, "exit_code": 0}
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return {"status": "stopped", "message": "", "exit_code": code}
    if code < 0:
        name = signal.Signals(-code).name
        why = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return {"status": "crashed", "message": f"ended by {name}{why}", "exit_code": 128 - code}
    if message:
        return {"status": last.get("failure", "failed"), "message": message, "exit_code": code}
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1].strip() if lines else f"exit code {code}"
    return {"status": "crashed", "message": f"{reason} (see {log})", "exit_code": code}


# ---------------------------------------------------------------------------------------------- in the process


class Follower:
    """A reporter that says the step, and whether to stop: asked by a signal, by a file, or as nobody is listening any more."""

    def __init__(self, task: dict[str, Any], events):
        from spinmd.protocols import Need

        self.needs = Need.NONE
        self.every = max(1, task["total"] // 1000)
        self.events = events
        self.parent = task["parent"]
        self.stop_file = task.get("stop")
        self.caught = 0
        self.begun = False
        self._reported = 0.0
        self._looked = 0.0

    def report(self, frame) -> None:
        self.begun = True
        now = time.monotonic()
        if now - self._reported > REPORT or frame.reason != "step":
            self._reported = now
            self.say(step=frame.step)

    def close(self) -> None:
        """Nothing is held open."""

    def say(self, **facts: Any) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more: ``stop`` will notice
            os.write(self.events, json.dumps(facts).encode() + b"\n")

    def on_signal(self, number: int, frame) -> None:
        self.caught = number
        if not self.begun:  # nothing is on disk yet, and compiling kernels may take a minute
            sys.exit(128 + number)

    def watch(self) -> None:
        """End the process at once if nobody is listening any more before the run has begun: another may begin it now."""
        while not self.begun:
            if os.getppid() != self.parent:
                os._exit(128 + signal.SIGTERM)
            time.sleep(REPORT)

    def stop(self) -> bool:
        """Asked before each step."""
        if not self.caught and os.getppid() != self.parent:
            self.caught = signal.SIGTERM
        if not self.caught and self.stop_file and time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            if os.path.exists(self.stop_file):
                self.caught = signal.SIGTERM
        return bool(self.caught)


def child() -> int:
    """Read a task from standard input and run it; returns the exit code, as that of ``spinmd run``."""
    import faulthandler
    import warnings

    faulthandler.enable()
    warnings.showwarning = lambda message, *_: print(f"spinmd: warning: {message}", file=sys.stderr)
    events = os.dup(1)
    os.dup2(2, 1)  # whatever a plug-in prints goes to the log
    task = json.loads(sys.stdin.buffer.read())
    follower = Follower(task, events)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, follower.on_signal)
    threading.Thread(target=follower.watch, daemon=True).start()
    try:
        return _run(task, follower)
    except SpinmdError as error:
        failure = "diverged" if isinstance(error, DivergedError) else "failed"
        follower.say(message=" ".join(str(error).split("\n")), failure=failure)
        return error.exit_code
    except MemoryError as error:
        follower.say(message=f"not enough memory ({error}); make the system smaller, or run fewer points at once")
        return 1


def _run(task: dict[str, Any], follower: Follower) -> int:
    path = Path(task["file"])
    _wait_for(path, follower)
    state, step = progress_of(path, task["tables"], task["total"])
    follower.say(step=step)
    if state == "finished":
        follower.say(finished=True)
        return 0
    simulation = _simulation(task, path, state)
    try:
        simulation.run(reporters=[follower], stop=follower.stop)
    finally:
        simulation.close()
        if simulation.summary:
            follower.say(seconds=simulation.summary["seconds_loop"])
    follower.say(step=simulation.state.clock.step)
    if follower.caught:
        return 128 + follower.caught
    missed = simulation.summary.get("steps_not_converged")
    follower.say(
        finished=True,
        message=f"the spin solver did not converge in {missed} steps; try a shorter timestep" if missed else "",
    )
    return 0


def _simulation(task: dict[str, Any], path: Path, state: str):
    """The run of a point: what its file has left, or from the beginning."""
    from spinmd.building import build
    from spinmd.deck import load_deck
    from spinmd.resuming import resume

    if state == "unfinished":
        try:
            device = task["tables"]["run"].get("device") or "cpu"
            return resume(path, device=device, threads=task["explicit_threads"], folder=task["folder"])
        except InputError as error:
            raise InputError(f"{error.message} (without this file, the point begins anew)", error.place) from None
    source = TomlSource(task["text"], task["name"], Path(task["folder"]), task["tables"])
    return build(load_deck(source), threads=task["explicit_threads"], force=True)


def _wait_for(path: Path, follower: Follower) -> None:
    """Until no other process writes this file: one whose worker died needs a moment to notice."""
    end = time.monotonic() + LOCK_WAIT
    while locked(parts_folder(path)):
        if time.monotonic() > end:
            raise InputError("another process is running this point at this moment; wait for it", str(path))
        if follower.stop():
            sys.exit(128 + follower.caught)
        time.sleep(0.1)
