# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What an import of the toolkit loads and costs, each in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "onnx", "onnxruntime", "onnxscript", "sklearn")
BLOCK_TORCH = """
    import sys
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")
    sys.meta_path.insert(0, Blocker())
"""


def run(code):
    """Standard output of `code` in a fresh interpreter."""
    process = subprocess.run(  # our own code
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "model_compression_toolkit",
        "model_compression_toolkit.qat",
        "model_compression_toolkit.ptq",
        "model_compression_toolkit.trainable_infrastructure",
        "model_compression_toolkit.trainable_infrastructure.methods",
        "model_compression_toolkit.core.common.report",
        "model_compression_toolkit.ptq.common.calibration",
        "model_compression_toolkit.exporter",
        "model_compression_toolkit.cli",
    ],
)
def test_import_loads_no_framework(module):
    assert run(f"import sys, {module}; print([name for name in {FRAMEWORKS} if name in sys.modules])") == "[]"


def test_asking_for_configurations_loads_no_framework():
    code = f"""
        import sys
        import model_compression_toolkit as mct
        mct.QuantizationConfig.from_bits("w4a8", rules=[mct.Rule(type="Conv2d", weight_bits=2)])
        mct.QATConfig("LSQ", "STE")
        dir(mct)
        print([name for name in {FRAMEWORKS} if name in sys.modules])
    """
    assert run(code) == "[]"


def test_a_pytorch_name_loads_torch_and_no_other_framework():
    pytest.importorskip("torch")
    code = f"""
        import sys
        import model_compression_toolkit as mct
        mct.pytorch_post_training_quantization
        print([name for name in {FRAMEWORKS} if name in sys.modules])
    """
    assert run(code) == "['torch']"


def test_the_verbs_load_no_framework_before_they_have_a_model():
    code = f"""
        import sys
        import model_compression_toolkit as mct
        verbs = mct.quantize, mct.prepare_qat, mct.finalize, mct.plan_of
        for verb in verbs:
            try:
                verb(*["no model", None][: verb.__code__.co_argcount - len(verb.__defaults__ or ())])
            except TypeError as error:
                print(error)
        print([name for name in {FRAMEWORKS} if name in sys.modules])
    """
    message = "`model` must be a torch.nn.Module or a keras.Model of Keras 3. Received: str"
    assert run(code).splitlines() == [message] * 4 + ["[]"]


def seconds_of(statement):
    """Processor time of one import in a fresh interpreter: other work on the machine does not count."""
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    return float(run(code))


def test_import_is_fast():
    own = min(seconds_of("import model_compression_toolkit") for _ in range(4))
    numpy = min(seconds_of("import numpy") for _ in range(4))
    # 0.3 s on a machine where NumPy, which the import includes, takes less than 0.1 s; in proportion on a slower one.
    assert own < max(0.3, 3 * numpy)


@pytest.mark.parametrize("name", ["regularization_loss", "pytorch_post_training_quantization"])
def test_without_torch_a_pytorch_name_says_what_to_install(name):
    code = f"""
        {textwrap.dedent(BLOCK_TORCH).strip().replace(chr(10), chr(10) + " " * 8)}
        import model_compression_toolkit as mct
        assert mct.QuantizationConfig().weights.num_bits == 8
        try:
            mct.{name}
        except ImportError as error:
            print(error)
    """
    text = run(code)
    assert f"model_compression_toolkit.{name}" in text
    assert "needs torch, which is not installed" in text
    assert "quantizers-infrastructure[torch]" in text


def test_without_torch_everything_neutral_works():
    code = f"""
        {textwrap.dedent(BLOCK_TORCH).strip().replace(chr(10), chr(10) + " " * 8)}
        from model_compression_toolkit.qat import QATConfig, TrainingMethod
        from model_compression_toolkit.trainable_infrastructure import Method
        import model_compression_toolkit.ptq.common.calibration
        import model_compression_toolkit.core.common.report
        print({{"LSQ", "STE"}} <= set(TrainingMethod), QATConfig("LSQ").weight_training_method)
    """
    assert run(code) == "True LSQ"


def test_an_unknown_name_is_an_attribute_error():
    code = """
        import model_compression_toolkit as mct
        try:
            mct.no_such_name
        except AttributeError as error:
            print(error)
    """
    assert "has no attribute 'no_such_name'" in run(code)
