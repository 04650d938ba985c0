# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The native kernels touch no memory but theirs and do nothing undefined: a build with sanitizers says so."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mct_quantizers.pytorch.native import library

PROGRAM = Path(__file__).with_name("sanitized_kernels.py")
GCC = shutil.which("g++")


def run(command, **environment):
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(GCC is None, reason="there is no g++")
@pytest.mark.parametrize("width", ["-march=native", "-mavx2", "-msse4.1"])
def test_kernels_under_address_and_undefined_behaviour_sanitizers(width, tmp_path):
    runtime = run([GCC, "-print-file-name=libasan.so"]).strip()
    if not Path(runtime).is_file():
        pytest.skip("g++ has no sanitizers here")
    path = tmp_path / "kernels.so"
    flags = [flag for flag in library.FLAGS if flag not in ("-O3", "-march=native")]
    sanitizers = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", width]
    run([GCC, *flags, *sanitizers, *map(str, library.SOURCES), "-o", str(path)])
    # Python itself frees little at its end.
    output = run([sys.executable, str(PROGRAM), str(path)], LD_PRELOAD=runtime, ASAN_OPTIONS="detect_leaks=0")
    assert output.strip().endswith("every entry was called")
