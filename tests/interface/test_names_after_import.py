# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The names that users reach right after `import model_compression_toolkit as mct`, in a new process."""

import subprocess
import sys

PATHS = (
    "core.CoreConfig core.QuantizationErrorMethod exporter.KerasExportSerializationFormat exporter.QuantizationFormat "
    "get_target_platform_capabilities gptq.get_pytorch_gptq_config logger.Logger ptq qat.QATConfig set_log_folder "
    "target_platform_capabilities trainable_infrastructure"
)
OF_TORCH = "exporter.pytorch_export_model ptq.pytorch_post_training_quantization"
CODE = """
import sys
import model_compression_toolkit as mct
import mct_quantizers as mctq

def reach(start, path):
    for part in path.split("."):
        start = getattr(start, part)
    return start

for path in {paths!r}.split():
    reach(mct, path)
assert not {{"torch", "keras", "tensorflow", "jax"}} & set(sys.modules), "a framework was imported"
for path in {of_torch!r}.split():
    reach(mct, path)
print(reach(mctq, "pytorch.quantizers.WeightsPOTInferableQuantizer")(4, [2.0], per_channel=0).per_channel)
"""


def test_names_resolve_and_import_no_framework_before_it_is_needed():
    code = CODE.format(paths=PATHS, of_torch=OF_TORCH)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["False"]
