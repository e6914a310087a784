"""Drives ``fuzz_worker``: damaged files, and what is wrong with the answers."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # s for one file


def fuzz(kind: str, source: Path, folder: Path, count: int, first: int = 1, patience: float = PATIENCE) -> dict[int, tuple]:
    """Answers (code, digest, sentence) by number of the damage; 0 is the file as it is. A crash is -2, a hang -3."""
    answers: dict[int, tuple] = {}
    todo = [0, *range(first, first + count)]
    while todo:
        # consecutive numbers; after a crash or a hang the next worker begins behind it
        run = [todo[0]]
        while len(run) < len(todo) and todo[len(run)] == run[-1] + 1:
            run.append(todo[len(run)])
        answers |= _batch(kind, source, folder, run, patience)
        todo = [seed for seed in todo if seed not in answers]
    return answers


def _batch(kind: str, source: Path, folder: Path, seeds: list[int], patience: float) -> dict[int, tuple]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
    arguments = [sys.executable, "-m", "support.fuzz_worker", kind, source, folder, str(seeds[0]), str(len(seeds))]
    worker = subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=folder.parent
    )
    answers: dict[int, tuple] = {}
    present, begin, text = seeds[0], time.monotonic() + 60.0, b""  # the first file also waits for the imports
    try:
        while True:
            ready, _, _ = select.select([worker.stdout], [], [], 0.5)
            if ready:
                block = os.read(worker.stdout.fileno(), 65536)
                if not block:
                    break
                text += block
                *lines, text = text.split(b"\n")
                for line in lines:
                    if line.startswith(b"? "):
                        present, begin = int(line[2:]), max(begin, time.monotonic())
                    else:
                        seed, *rest = json.loads(line)
                        answers[seed] = tuple(rest)
            elif time.monotonic() - begin > patience:
                worker.kill()
                answers[present] = (-3, "-", f"no answer after {patience} s")
                break
    finally:
        errors = worker.communicate()[1].decode(errors="replace")
    if present not in answers:
        answers[present] = (-2, "-", f"the process ended with {worker.returncode}: {errors[-2000:]}")
    return answers


def faults(answers: dict[int, tuple], *, same: bool, codes: tuple[int, ...] = (0, 2)) -> list[str]:
    """What is wrong: another code, more than one line, no place, or (``same``) a result that differs from the whole file's."""
    expected = answers[0]
    assert expected[0] == 0, expected
    found = []
    for seed, (code, result, sentence) in sorted(answers.items()):
        if code not in codes:
            found.append(f"damage {seed}: exit code {code}: {sentence}")
        elif code == 0 and same and result != expected[1]:
            found.append(f"damage {seed}: read without an error, and differs from the whole file")
        elif code and ("Traceback" in sentence or not sentence.strip()):
            found.append(f"damage {seed}: not a sentence: {sentence!r}")
    return found
