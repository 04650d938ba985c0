# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The README's example runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import model_compression_toolkit as mct

README = Path(__file__).parents[1] / "README.md"


def examples_of(document):
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_example_exports_a_verified_file(tmp_path, monkeypatch):
    example, _ = examples_of(README)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example, str(README), "exec"), names)
    assert names["report"].parity.passed
    plan = names["mct"].plan_of(names["quantized"])
    assert {tensor.name: tensor.params.num_bits for tensor in plan.quantized()} == dict.fromkeys(
        ("input_1.output", "0.weight", "1.output", "3.weight"), 4
    )
    assert (tmp_path / "model.onnx").stat().st_size == names["report"].file_size


@pytest.mark.keras
def test_second_example_is_a_method_for_both_frameworks(tmp_path):
    pytest.importorskip("keras.layers")
    _, example = examples_of(README)
    code = (
        example
        + """
assert {tensor.params.num_bits for tensor in mct.plan_of(frozen).quantized()} == {4}
assert {tensor.training_method for tensor in mct.plan_of(frozen).quantized()} == {"TQT"}
assert np.array_equal(frozen(torch.from_numpy(x)).detach(), prepared.eval()(torch.from_numpy(x)).detach())
assert kernel.params.threshold == 2.0 ** np.round(np.log2(kernel.params.threshold))
trained = network.predict(x, verbose=0)
layer.convert_to_inferable_quantizers()
assert np.array_equal(network.predict(x, verbose=0), trained)
"""
    )
    # In a process of its own: the method would stay registered in this one.
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True, cwd=tmp_path)
    method = example[example.index("class TQT") : example.index("x = np")].strip()
    assert len(method.splitlines()) <= 25


def test_contributing_example_is_a_method_that_trains():
    contributing = README.with_name("CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", contributing, flags=re.DOTALL)
    code = (
        example
        + """
import torch
import model_compression_toolkit as mct

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
grid = mct.TensorConfig(3, QuantizationMethod.SYMMETRIC, "per_tensor")
config = mct.QuantizationConfig(grid, grid)
prepared = mct.prepare_qat(model, torch.randn(64, 8), config, mct.QATConfig("CLIPPING", "CLIPPING"))
losses = mct.fine_tune(prepared, model, torch.randn(256, 8), settings=mct.FineTuning(epochs=10))
assert losses[-1] < 0.7 * losses[0], losses
x = torch.randn(32, 8)
assert torch.equal(mct.finalize(prepared)(x), prepared.eval()(x))
"""
    )
    # In a process of its own: the method would stay registered in this one.
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_table_of_quantizers_is_true():
    pytest.importorskip("torch")
    pytest.importorskip("keras.layers")
    import mct_quantizers
    from mct_quantizers.pytorch.onnx_ops import OPERATORS

    rows = re.findall(
        r"^\| `(\w+InferableQuantizer)` \|(.*)\|$", README.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    classes = {name for name in mct_quantizers.pytorch_quantizers.__all__ if not name.startswith("Base")}
    assert {name for name, _ in rows} == classes
    for name, cells in rows:
        # That every engine computes the same is held by tests/interface/test_same_numbers.py, name by name.
        numpy, pytorch, *keras, onnx = (cell.strip() for cell in cells.split("|"))
        assert [numpy, pytorch, *keras] == ["yes"] * 5
        assert name in mct_quantizers.keras_quantizers.__all__
        assert (onnx == "yes") == (name.replace("Inferable", "") in OPERATORS)


def test_examples_of_the_runtime_run_as_printed(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("keras.layers")
    text = README.with_name("docs").joinpath("runtime.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(example, "docs/runtime.md", "exec"), names)
    assert names["restored"] is not names["model"]
    assert (tmp_path / "model.keras").exists()


@pytest.mark.keras
@pytest.mark.slow_on("jax")
def test_examples_of_training_run_as_printed(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("keras.layers")
    first, *others = examples_of(README.with_name("docs") / "training.md")
    check = """
widths = {tensor.name: tensor.params.num_bits for tensor in mct.plan_of(quantized).quantized()}
assert widths == {"input_1.output": 8, "0.weight": 3, "1.output": 8, "2.weight": 3}, widths
grids = {(tensor.is_weight, tensor.config.granularity.value) for tensor in mct.plan_of(quantized).quantized()}
assert grids == {(True, "per_channel"), (False, "per_tensor")}, grids
"""
    code = "\n".join([first, check, *others])
    # In a process of its own: training methods and quantizer classes would stay registered in this one.
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True, cwd=tmp_path)
    assert (tmp_path / "network.keras").exists()


@pytest.mark.keras
def test_the_example_of_the_keras_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("keras.layers")
    monkeypatch.chdir(tmp_path)
    (code,) = examples_of(README.with_name("docs") / "keras.md")
    names = {}
    exec(compile(code, "keras.md", "exec"), names)
    assert names["report"].parity.passed
    for tensor in mct.plan_of(names["quantized"]).quantized():
        assert tensor.params.num_bits == (4 if tensor.is_weight else 8)


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150


def test_links_between_documents_resolve():
    for document in (README, *README.parent.glob("*.md"), *README.parent.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
