"""Runs in processes whose disk fails on command, or that are killed: started by ``support.faults``, never imported.

Reads one JSON request a line and answers with one: each job runs in a forked child, which has the libraries loaded
already, under the preloaded ``faults.c``. {"status": exit code or minus the signal, "calls": counted calls or None,
"checkpoints": steps whose checkpoint had returned, "error": [name, sentence, exit code] or None, "seconds"}.
"""

import contextlib
import ctypes
import json
import os
import runpy
import sys
import time
from pathlib import Path

from spinmd import h5md
from spinmd.checkpoint import read_checkpoint
from spinmd.errors import SpinmdError

ANALYTIC = Path(__file__).parents[1] / "spinmd/analytic_run.py"
FRAMES, THERMO, CHECKPOINT = 10, 5, 20


class Engine:
    """The jobs. Rows and checkpoints are those of one long run, wherever a job begins."""

    def __init__(self, path: Path, told):
        self.run = runpy.run_path(str(ANALYTIC))
        self.path, self.told = path, told

    def go_on(self, state, last, force=False, resume=False):
        run = self.run
        writer = h5md.TrajectoryWriter(
            run["parameters_for"](self.path), run["COLUMNS"], deck="a deck", force=force, resume=resume
        )
        try:
            for step in range(state.clock.step, last + 1, THERMO):
                frame = run["frame_of"](state, step)
                writer.append_thermo(frame, {"step": step, "time": frame.time, "energy": -(float(step) ** 2)})
                if step % FRAMES == 0:
                    writer.append_frame(frame)
                if step % CHECKPOINT == 0 or step == last:
                    writer.checkpoint(frame, {"seed": 4})
                    self.told(step)
        finally:
            writer.close()

    def start(self, last, force=False):
        self.go_on(self.run["make_state"](), last, force=force)

    def resume(self, last):
        self.go_on(read_checkpoint(self.path)[0], last, resume=True)

    def command(self, words):
        """A command line of spinmd, in the folder of the file; not the analytic engine, but the real one."""
        from spinmd.cli import main

        os.chdir(self.path.parent)
        status = main(words)
        if status:
            raise CommandError(status)


class CommandError(SpinmdError):
    def __init__(self, status: int):
        super().__init__(f"the command ended with {status}")
        self.exit_code = status


def child(request: dict, report) -> int:
    library = ctypes.CDLL(None)
    h5md.COMPACT_COUNT = request.get("compact", 2)  # so that merging segments is part of a short run
    answer = {"calls": None, "checkpoints": [], "error": None}

    def say():
        os.pwrite(report, json.dumps(answer).ljust(4000).encode(), 0)

    def told(step):
        answer["checkpoints"].append(step)
        say()

    say()
    engine = Engine(Path(request["path"]), told)
    faults = request["faults"]
    log = request.get("log")
    library.faults_arm(
        os.fsencode(Path(request["path"]).parent), faults["mode"], faults.get("at", -1), faults.get("end", -1),
        faults.get("errno", 0), faults.get("kinds", 0), request.get("sync", 0), log and os.fsencode(log),
    )  # fmt: skip
    try:
        getattr(engine, request["job"])(**request["arguments"])
    except SpinmdError as error:
        answer["error"] = [type(error).__name__, str(error), error.exit_code]
    except BaseException as error:
        answer["error"] = [type(error).__name__, str(error), 1]
    answer["calls"] = library.faults_calls()
    say()
    return 0 if answer["error"] is None else answer["error"][2]


def main() -> None:
    report = os.memfd_create("report")
    for line in sys.stdin:
        request = json.loads(line)
        if request["job"] == "warm":  # compile, or load, what the children will need
            Engine(Path(request["path"]), None).command(**request["arguments"])
            print("{}", flush=True)
            continue
        begin = time.perf_counter()
        process = os.fork()
        if process == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = child(request, report)
            if request.get("exit") == "ordinary":
                sys.exit(status)  # HDF5 closes what is open in its own exit handler
            os._exit(status)
        while request.get("when") and not Path(request["when"]).exists():
            time.sleep(0.002)
            begin = time.perf_counter()
        for seconds, number in request.get(
            "signals", ()
        ):  # seconds from the start, or since the file ``when`` appeared
            time.sleep(max(begin + seconds - time.perf_counter(), 0.0))
            os.kill(process, number)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        seconds = time.perf_counter() - begin
        answer = json.loads(os.pread(report, 4000, 0)) | {"status": status, "seconds": seconds}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
