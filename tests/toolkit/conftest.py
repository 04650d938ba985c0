# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Without torch, the files that import it are left out; the framework-neutral ones run."""

import importlib.util
from pathlib import Path

collect_ignore = []
if importlib.util.find_spec("torch") is None:
    files = Path(__file__).parent.rglob("test_*.py")
    collect_ignore += [str(path) for path in files if "\nimport torch\n" in path.read_text(encoding="utf-8")]
else:
    import torch

    # Test processes run side by side; threads of their own would only fight for the cores.
    torch.set_num_threads(1)
