"""Where numba keeps compiled kernels: a folder named after a hash of spinmd's sources.

numba compiles a kernel again when the file that holds it changes, but not when a function that the kernel calls
changes in another file. spinmd writes each law of physics once and calls it from loops in other files, so a stale
cache would silently keep an old law. Therefore an edit anywhere in the sources gives a new folder. Kernels of plug-ins
land in the same folder: an edit of the file that holds them is noticed, and one of spinmd's sources, but not an edit
of the plug-in's other files. Commands and analyses without kernels do not count: nothing that is compiled imports them
(tests/spinmd/test_jitcache.py holds them to it), and who writes them need not wait for all kernels.

The folder is ``BASE/py3.11-numba0.68.1-CPU-SOURCES``. BASE is the first that is given and writable of
``$SPINMD_CACHE_DIR``, ``$NUMBA_CACHE_DIR``, ``$XDG_CACHE_HOME/spinmd``, ``~/.cache/spinmd``; otherwise a private folder
among the temporary files.
Nothing here imports numba, numpy or any other part of spinmd.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOMS = ("potentials", "integrators", "analysis")
ABOVE = ("spinmd.analysis/", "spinmd/commands/", "spinmd/cli.py")  # count only if they mention numba
KEPT = 5  # folders of earlier sources that stay: switching between branches does not compile everything again
UNUSED = 24 * 3600.0  # s; a folder used more recently may belong to a running process and stays

_FOLDER = re.compile(r"^py\d+\.\d+-numba[^-]+-[0-9a-f]{8}-[0-9a-f]{16}$")
_configured: Path | None = None


def configure() -> Path:
    """Point numba's cache at the folder of the present sources and return it; further calls change nothing.

    It acts on kernels defined afterwards, whether numba is already imported (then through ``numba.config``, which is
    read when a kernel is defined) or not (then through ``$NUMBA_CACHE_DIR``, which is read when numba is imported). The
    folder itself is made by numba when there is a kernel to keep.
    """
    global _configured
    if _configured is None:
        base = _base()
        folder = base / _key()
        if "numba" in sys.modules:
            sys.modules["numba"].config.CACHE_DIR = str(folder)
        else:
            os.environ["NUMBA_CACHE_DIR"] = str(folder)
        if folder.is_dir():
            _mark_used(folder)
        else:
            remove_unused(base)
        _configured = folder
    return _configured


def source_files() -> Iterator[tuple[str, Path]]:
    """(name, path) of every Python file of spinmd and its rooms, in a fixed order.

    The rooms are asked for by name: in a checkout they are links inside ``spinmd/``, which os.walk does not follow; in
    an installed copy they are folders there, left out of the first walk so that the names are the same in both.
    """
    for package in ("spinmd", *(f"spinmd.{room}" for room in ROOMS)):
        spec = find_spec(package)
        for top in spec.submodule_search_locations if spec else ():
            for folder, subfolders, files in os.walk(top):
                elsewhere = ROOMS if package == "spinmd" and folder == top else ()
                subfolders[:] = sorted(set(subfolders) - {"__pycache__", *elsewhere})
                for file in sorted(files):
                    if file.endswith(".py"):
                        path = Path(folder, file)
                        yield f"{package}/{os.path.relpath(path, top)}", path


def source_hash() -> str:
    """Hexadecimal digest of the names and contents of all source files that kernels are made of."""
    digest = hashlib.blake2b(digest_size=8)
    for name, path in source_files():
        content = path.read_bytes()
        if name.startswith(ABOVE) and b"numba" not in content:
            continue
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def remove_unused(base: Path) -> None:
    """Remove cache folders of earlier sources, except the ``KEPT`` last used and those used within ``UNUSED`` seconds.

    Other processes may be doing the same or still be reading: a folder is renamed first, so that it goes at once or not
    at all, and whatever cannot be removed is left.
    """
    try:
        with os.scandir(base) as entries:
            folders = [(entry.stat().st_mtime, entry.path) for entry in entries if _FOLDER.match(entry.name)]
    except OSError:
        return
    for used, path in sorted(folders, reverse=True)[KEPT:]:
        if time.time() - used > UNUSED:
            doomed = f"{path}.removed-{os.getpid()}"
            try:
                os.rename(path, doomed)
            except OSError:
                continue
            shutil.rmtree(doomed, ignore_errors=True)


def _key() -> str:
    return f"py{sys.version_info[0]}.{sys.version_info[1]}-numba{_numba_version()}-{_cpu_hash()}-{source_hash()}"


def _numba_version() -> str:
    """Without importing numba (0.5 s) and, where it can be, without importlib.metadata (20 ms)."""
    if "numba" in sys.modules:
        return sys.modules["numba"].__version__
    spec = find_spec("numba")
    if spec is not None and spec.origin is not None:
        written = Path(spec.origin).with_name("_version.py")
        found = re.search(r'"version": "([^"]+)"', written.read_text()) if written.exists() else None
        if found is not None:
            return found.group(1)
    from importlib.metadata import version

    return version("numba")


def _cpu_hash() -> str:
    """Machines that share a home folder may have different processors; each gets its own folder."""
    description = os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_IDENTIFIER", "")
    try:
        with open("/proc/cpuinfo", "rb") as file:
            first = file.read(8192).split(b"\n\n")[0].decode(errors="replace")
    except OSError:
        first = ""
    for line in first.splitlines():
        if line.startswith(("model name", "flags", "Features", "CPU part")):
            description += line
    return hashlib.blake2b(description.encode(), digest_size=4).hexdigest()


def _base() -> Path:
    candidates = []
    if os.environ.get("SPINMD_CACHE_DIR"):
        candidates.append(Path(os.environ["SPINMD_CACHE_DIR"]))
    if os.environ.get("NUMBA_CACHE_DIR"):
        given = Path(os.environ["NUMBA_CACHE_DIR"])
        # a process started by a spinmd process inherits the folder that ``configure`` made there
        candidates.append(given.parent if _FOLDER.match(given.name) else given)
    if os.environ.get("XDG_CACHE_HOME"):
        candidates.append(Path(os.environ["XDG_CACHE_HOME"], "spinmd"))
    home = os.path.expanduser("~")
    if home != "~":
        candidates.append(Path(home, ".cache", "spinmd"))
    for candidate in candidates:
        folder = Path(os.path.abspath(candidate))
        if _writable(folder):
            return folder
    return _temporary_base()


def _writable(folder: Path) -> bool:
    """Whether ``folder`` is writable, or can be made."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _temporary_base() -> Path:
    """A folder that belongs to this user alone: loading a cached kernel runs code, so nobody else may put one there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"spinmd-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="spinmd-"))


def _mark_used(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only cache still serves
        os.utime(folder)
