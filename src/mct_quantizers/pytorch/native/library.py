# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The native library: compiled at first use, for this machine, and kept for the next process."""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from mct_quantizers.pytorch.native.signatures import SIGNATURES

_LOGGER = logging.getLogger("mct_quantizers")

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
SWITCH = "MCT_QUANTIZERS_NATIVE"
"""Environment variable; "0" turns native code off."""
CACHE = "MCT_QUANTIZERS_CACHE"
"""Environment variable: folder for what is compiled, instead of `~/.cache/mct_quantizers`."""

# No contraction and no fast mathematics: the codes are those of the NumPy reference.
FLAGS = (
    "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC",
    "-shared", "-std=c++17", "-Wno-psabi",
)  # fmt: skip
_PATIENCE = 20.0
"""Seconds that the first call waits for the compiler."""
_TIMEOUT = 120.0
"""Seconds after which a compiler that works on in the background is stopped."""


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The library; None where there is no compiler, it takes too long, or native code is turned off.

    Which one it is, is logged once, at debug level; that a compiler takes longer than 20 seconds, as a warning. It goes
    on in the background, so that the next process may find what it made.
    """
    found: list[ctypes.CDLL | Exception] = []

    def load() -> None:
        try:
            found.append(_load())
        except (OSError, subprocess.SubprocessError) as error:
            found.append(error)

    # Where it has hung, nothing waits for it at the end of the process either.
    loading = threading.Thread(target=load, name="mct_quantizers-compiler", daemon=True)
    loading.start()
    loading.join(_PATIENCE)
    if not found:
        _LOGGER.warning(
            "The C++ compiler has not finished within %g s. Fake quantization on the CPU runs in operators of torch in "
            "this process, which compute the same values. %s=0 in the environment does without the compiler.",
            _PATIENCE,
            SWITCH,
        )
        return None
    (library,) = found
    if isinstance(library, Exception):
        _LOGGER.debug("fake quantization on the CPU runs in operators of torch: %s", library)
        return None
    _LOGGER.debug("fake quantization on the CPU runs in native code: %s", library._name)
    return library


def _load() -> ctypes.CDLL:
    if os.environ.get(SWITCH) == "0":
        raise OSError(f"{SWITCH}=0")
    wanted = os.environ.get("CXX")
    compiler = next(filter(None, map(shutil.which, [wanted] if wanted else ["g++", "clang++", "c++"])), None)
    if compiler is None:
        raise OSError("no C++ compiler (g++, clang++ or c++; environment variable CXX)")
    folder = _folder()
    path = folder / f"kernels_{_key(compiler)}.so"
    if not path.is_file():
        _compile(compiler, path)
    library = ctypes.CDLL(str(path))
    for name, (arguments, result) in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


def _folder() -> Path:
    """The folder for compiled libraries, which nobody else can write to: what is in it is run."""
    given = os.environ.get(CACHE)
    folder = Path(given) if given else Path.home() / ".cache" / "mct_quantizers"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{folder} belongs to or can be written by others")
    return folder


def _key(compiler: str) -> str:
    """Of everything that the library depends on: sources, flags, compiler and processor."""
    version = _run([compiler, "--version"])
    parts = (
        *(source.read_bytes() for source in SOURCES + HEADERS),
        " ".join(FLAGS).encode(),
        version,
        _processor().encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What tells processors with different instructions apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


def _compile(compiler: str, path: Path) -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        result = Path(folder, path.name)
        _run([compiler, *FLAGS, *map(str, SOURCES), "-o", str(result)])
        # Beside its target, then renamed: another process sees all of it or nothing.
        result.replace(path)
    _LOGGER.debug("compiled %s in %.1f s", path, time.perf_counter() - start)


_running: set[subprocess.Popen[bytes]] = set()


def _run(command: list[str]) -> bytes:
    """What a command prints.

    Raises:
        OSError: it fails.
        subprocess.TimeoutExpired: it takes too long, and is stopped.
    """
    # A session of its own, so that what the compiler has started can be stopped with it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    _running.add(process)
    try:
        output, errors = process.communicate(timeout=_TIMEOUT)
    finally:
        _stop(process)
        _running.discard(process)
    if process.returncode != 0:
        text = errors.decode(errors="replace").strip().splitlines()
        raise OSError(f"{command[0]} failed with exit code {process.returncode}: {text[0] if text else 'no text'}")
    return output


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@atexit.register
def _stop_all() -> None:
    for process in list(_running):
        _stop(process)
