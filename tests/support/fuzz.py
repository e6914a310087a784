"""Drives ``fuzz_worker``: damaged files, and what is wrong with the answers."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START = 600.0  # s that imports and kernels may take, which may have to be compiled
Job = tuple[str, Path, int]
Answer = tuple[int, str, str]  # exit code, digest of what was read, sentence


def fuzz(jobs: Sequence[Job], folder: Path, patience: float = 30.0) -> dict[Job, Answer]:
    """Answers to jobs (kind, source, number of the damage; 0 is the file as it is), read one after the other in ``folder``.

    A crash is -2, a hang of ``patience`` seconds -3; another worker goes on behind it.
    """
    answers: dict[int, Answer] = {}
    todo = list(range(len(jobs)))
    while todo:
        answers |= _batch(
            [(number, jobs[number][0], str(jobs[number][1]), jobs[number][2]) for number in todo], folder, patience
        )
        todo = [number for number in todo if number not in answers]
    return {job: answers[number] for number, job in enumerate(jobs)}


def _batch(jobs: list[tuple], folder: Path, patience: float) -> dict[int, Answer]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    worker = subprocess.Popen(
        [sys.executable, "-m", "support.fuzz_worker", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=folder.parent,
    )  # fmt: skip
    worker.stdin.write(json.dumps(jobs).encode())
    worker.stdin.close()
    worker.stdin = None
    answers: dict[int, Answer] = {}
    present, limit, text = jobs[0][0], time.monotonic() + START + patience, b""
    try:
        while True:
            if not select.select([worker.stdout], [], [], 0.5)[0]:
                if time.monotonic() > limit:
                    worker.kill()
                    answers[present] = (-3, "-", f"no answer after {patience} s")
                    break
                continue
            block = os.read(worker.stdout.fileno(), 65536)
            if not block:
                break
            *lines, text = (text + block).split(b"\n")
            for line in lines:
                if line.startswith(b"? "):
                    present = int(line[2:])
                    limit = max(limit, time.monotonic() + patience) if not answers else time.monotonic() + patience
                else:
                    number, code, result, sentence = json.loads(line)
                    answers[number] = (code, result, sentence)
    finally:
        errors = worker.communicate()[1].decode(errors="replace")
    if present not in answers:
        answers[present] = (-2, "-", f"the process ended with {worker.returncode}: {errors[-2000:]}")
    return answers


def faults(answers: dict[int, Answer], *, same: bool, codes: tuple[int, ...] = (0, 2)) -> list[str]:
    """What is wrong: another code, no sentence, or (``same``) a result that differs from that of the whole file."""
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
