# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The native library: compiled at first use, for this machine, and kept for the next process."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

_LOGGER = logging.getLogger("mct_quantizers")

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
SWITCH = "MCT_QUANTIZERS_NATIVE"
"""Environment variable; "0" turns native code off."""
CACHE = "MCT_QUANTIZERS_CACHE"
"""Environment variable: folder for what is compiled, instead of `~/.cache/mct_quantizers`."""

# No contraction and no fast mathematics: the codes are those of the NumPy reference.
_FLAGS = (
    "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC",
    "-shared", "-std=c++17", "-Wno-psabi",
)  # fmt: skip
_TIMEOUT = 120.0

_POINTER, _SIZE, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIZES = [_SIZE] * 3
_SETTINGS = [_FLOAT] * 3 + [_INT]
_SIGNATURES = {
    "forward": ([_POINTER] * 4 + _SIZES + _SETTINGS, None),
    "backward": ([_POINTER] * 6 + [_FLOAT] + _SIZES + _SETTINGS, None),
    "batch_statistics": ([_POINTER] * 4 + [_FLOAT] + _SIZES + [_INT], None),
    "normalized_forward": ([_POINTER] * 9 + [_SIZE] + _SIZES + _SETTINGS, None),
    "normalized_backward": ([_POINTER] * 11 + [_SIZE] + [_POINTER] * 3 + [_FLOAT] + _SIZES + _SETTINGS, None),
    "extremes": ([_POINTER, _SIZE, _POINTER, _INT], None),
    "histogram": ([_POINTER, _SIZE, _FLOAT, _FLOAT, _SIZE, _POINTER, _INT], None),
}


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The library; None where there is no compiler, or native code is turned off.

    Which one it is, is logged once, at debug level.
    """
    try:
        library = _load()
    except (OSError, subprocess.SubprocessError) as error:
        _LOGGER.debug("fake quantization on the CPU runs in operators of torch: %s", error)
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
    for name, (arguments, result) in _SIGNATURES.items():
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
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_TIMEOUT).stdout
    parts = (
        *(source.read_bytes() for source in SOURCES + HEADERS),
        " ".join(_FLAGS).encode(),
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
        command = [compiler, *_FLAGS, *map(str, SOURCES), "-o", str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
        if done.returncode != 0:
            raise OSError(f"{compiler} failed: {done.stderr.strip().splitlines()[:1]}")
        # Beside its target, then renamed: another process sees all of it or nothing.
        result.replace(path)
    _LOGGER.debug("compiled %s in %.1f s", path, time.perf_counter() - start)
