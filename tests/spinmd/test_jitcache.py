"""The cache of compiled kernels follows the sources: an edited law is never answered from an old kernel."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spinmd import jitcache

ROOT = Path(__file__).resolve().parents[2]

LAW = """
from numba import njit

@njit
def law(x):
    return {factor} * x
"""
KERNEL = """
import numpy as np
from numba import njit
from spinmd.integrators.planted_law import law

@njit(cache=True)
def kernel(values):
    total = 0.0
    for value in values:
        total += law(value)
    return total

def report(configured):
    import json, numba
    total = kernel(np.ones(3))
    print(json.dumps({"total": total, "hits": sum(kernel.stats.cache_hits.values()),
                      "misses": sum(kernel.stats.cache_misses.values()), "path": kernel.stats.cache_path,
                      "folder": str(configured), "numba": numba.__version__}))
"""
REPORT = """
from spinmd import jitcache
from spinmd.potentials.planted_kernel import report
report(jitcache.configure())
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the packages with a law in one room and a kernel that calls it in another (only a test may do that)."""
    copy = tmp_path / "a copy"
    for room in jitcache.ROOMS:
        (copy / room).mkdir(parents=True)
        shutil.copy(ROOT / room / "__init__.py", copy / room)
    (copy / "spinmd").mkdir()
    for name in ("__init__.py", "jitcache.py"):
        shutil.copy(ROOT / "spinmd" / name, copy / "spinmd")
    for room in jitcache.ROOMS:
        (copy / "spinmd" / room).symlink_to(f"../{room}", target_is_directory=True)
    (copy / "integrators" / "planted_law.py").write_text(LAW.format(factor="2.0"))
    (copy / "potentials" / "planted_kernel.py").write_text(KERNEL)
    return copy


def start(tree: Path, code: str = REPORT, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("SPINMD_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    env = {**kept, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["import spinmd", "import numba"])
def test_an_edited_law_is_compiled_again(tree, tmp_path, first):
    """Whether or not numba is imported before spinmd."""
    code = f"{first}\n{REPORT}"
    base = str(tmp_path / "base")
    cold = json.loads(start(tree, code, SPINMD_CACHE_DIR=base))
    assert (cold["total"], cold["hits"], cold["misses"]) == (6.0, 0, 1)
    assert Path(cold["path"]).parent == Path(cold["folder"])
    assert Path(cold["folder"]).parent == Path(base)
    assert f"numba{cold['numba']}-" in Path(cold["folder"]).name

    warm = json.loads(start(tree, code, SPINMD_CACHE_DIR=base))
    assert (warm["total"], warm["hits"], warm["misses"]) == (6.0, 1, 0)
    assert warm["folder"] == cold["folder"]

    (tree / "integrators" / "planted_law.py").write_text(LAW.format(factor="5.0"))
    edited = json.loads(start(tree, code, SPINMD_CACHE_DIR=base))
    assert (edited["total"], edited["hits"], edited["misses"]) == (15.0, 0, 1)
    assert edited["folder"] != cold["folder"]


def test_numba_alone_would_keep_the_old_law(tree, tmp_path):
    """Why this module exists; if numba learns to notice, it can go."""
    alone = "from spinmd import jitcache\njitcache.configure = lambda: None\n"
    (tree / "spinmd" / "__init__.py").write_text("")
    code = alone + REPORT
    assert json.loads(start(tree, code, NUMBA_CACHE_DIR=str(tmp_path / "n")))["total"] == 6.0
    (tree / "integrators" / "planted_law.py").write_text(LAW.format(factor="5.0"))
    assert json.loads(start(tree, code, NUMBA_CACHE_DIR=str(tmp_path / "n")))["total"] == 6.0


@pytest.mark.parametrize("room", ["spinmd", "potentials", "integrators"])
def test_every_file_counts(tree, room):
    code = "from spinmd import jitcache; print(jitcache.source_hash())"
    before = start(tree, code)
    assert before == start(tree, code)
    deep = tree / room / "deep"
    deep.mkdir()
    (deep / "note.txt").write_text("not code")
    assert start(tree, code) == before
    (deep / "law.py").write_text("x = 1\n")
    added = start(tree, code)
    assert added != before
    (deep / "law.py").rename(deep / "rule.py")
    assert start(tree, code) not in (before, added)


def test_an_analysis_counts_only_if_it_has_kernels(tree):
    code = "from spinmd import jitcache; print(jitcache.source_hash())"
    before = start(tree, code)
    (tree / "analysis" / "mean.py").write_text("import numpy\n")
    assert start(tree, code) == before
    (tree / "analysis" / "mean.py").write_text("from numba import njit\n")
    assert start(tree, code) != before


def test_nothing_compiled_is_made_of_what_does_not_count():
    """A kernel of an analysis takes laws from files that count: from its own room only from those with kernels of their own."""
    files = {name: path.read_text(encoding="utf-8") for name, path in jitcache.source_files()}
    left_out = {name for name, text in files.items() if name.startswith(jitcache.ABOVE) and "numba" not in text}
    assert any("results" in name for name in left_out)
    modules = {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in left_out}
    for name, text in files.items():
        if "numba" in text and "njit" in text:
            found = {module for module in modules if f"from {module} import" in text or f"import {module}" in text}
            assert not found, f"{name} has kernels and imports {found}, which the cache's key leaves out"


def test_all_rooms_are_read_here():
    names = [name for name, _ in jitcache.source_files()]
    assert len(names) == len(set(names))
    assert {"spinmd/jitcache.py", *(f"spinmd.{room}/__init__.py" for room in jitcache.ROOMS)} <= set(names)


def test_hashing_is_cheap():
    best = min(_seconds(jitcache.source_hash) for _ in range(5))
    assert best < 0.03  # s of processor time; a few milliseconds are usual


def _seconds(work) -> float:
    start_time = time.process_time()
    work()
    return time.process_time() - start_time


def test_a_child_process_uses_the_same_folder(tree, tmp_path):
    code = (
        "import subprocess, sys; from spinmd import jitcache; print(jitcache.configure(), flush=True);"
        "subprocess.run([sys.executable, '-c', 'from spinmd import jitcache; print(jitcache.configure())'], check=True)"
    )
    for variable in ("NUMBA_CACHE_DIR", "SPINMD_CACHE_DIR"):
        parent, child = start(tree, code, **{variable: str(tmp_path / variable)}).splitlines()
        assert parent == child
        assert Path(parent).parent == tmp_path / variable


def test_where_the_cache_goes(tree, tmp_path):
    code = "from spinmd import jitcache; print(jitcache.configure().parent)"
    spinmd, numba, cache, home = (str(tmp_path / name) for name in ("spinmd", "numba", "cache", "home"))
    given = {"SPINMD_CACHE_DIR": spinmd, "NUMBA_CACHE_DIR": numba, "XDG_CACHE_HOME": cache, "HOME": home}
    assert start(tree, code, **given).strip() == spinmd
    del given["SPINMD_CACHE_DIR"]
    assert start(tree, code, **given).strip() == numba
    del given["NUMBA_CACHE_DIR"]
    assert start(tree, code, **given).strip() == f"{cache}/spinmd"
    del given["XDG_CACHE_HOME"]
    assert start(tree, code, **given).strip() == f"{home}/.cache/spinmd"
    # numba makes the folder when there is a kernel to keep
    assert not any(Path(path).exists() for path in (spinmd, numba, cache, home))


def test_unwritable_home(tree, tmp_path):
    """A home below a plain file can be made by nobody, root included; kernels then go among the temporary files."""
    (tmp_path / "file").touch()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(temporary)}
    cold, warm = (json.loads(start(tree, **environment)) for _ in range(2))
    base = Path(cold["folder"]).parent
    assert base.parent == temporary
    assert base.stat().st_mode & 0o777 == 0o700
    assert (cold["misses"], warm["hits"]) == (1, 1)

    # others could have put code there: a folder open to them is not used
    base.chmod(0o777)
    assert Path(json.loads(start(tree, **environment))["folder"]).parent not in (base, temporary)


def test_old_folders_are_removed(tmp_path, monkeypatch):
    names = [f"py3.11-numba0.68.1-{0:08x}-{i:016x}" for i in range(9)]
    now = time.time()
    for i, name in enumerate(names):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "kernel.nbc").touch()
        used = now - (9 - i) * jitcache.UNUSED
        os.utime(tmp_path / name, (used, used))
    (tmp_path / "somebody else's").mkdir()
    jitcache.remove_unused(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"somebody else's", *names[-jitcache.KEPT :]}

    # a folder in use stays, however many there are
    for i in range(9, 20):
        (tmp_path / f"py3.11-numba0.68.1-{0:08x}-{i:016x}").mkdir()
    jitcache.remove_unused(tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("py")]) == 11
    jitcache.remove_unused(tmp_path / "absent")


def test_configuring_again_changes_nothing():
    numba = pytest.importorskip("numba")
    folder = jitcache.configure()
    assert jitcache.configure() == folder
    assert str(folder) == numba.config.CACHE_DIR


def test_kernels_of_spinmd_are_kept_there():
    """The real thing: every compiled function of a room that asks for the cache has it in the configured folder."""
    from numba.core.dispatcher import Dispatcher

    from spinmd import neighbors, simd

    paths = [
        value.stats.cache_path
        for module in (neighbors, simd)
        for value in vars(module).values()
        if isinstance(value, Dispatcher) and value.stats.cache_path is not None
    ]
    assert paths
    assert {Path(path).parent for path in paths} == {jitcache.configure()}
