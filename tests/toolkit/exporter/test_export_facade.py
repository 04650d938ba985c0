# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from export_networks import Small

import model_compression_toolkit as mct
from model_compression_toolkit import exporter
from model_compression_toolkit.exporter import ExportFormat, export, load, read_plan
from model_compression_toolkit.exporter.pytorch import export_facade


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mct.quantize(Small().eval(), torch.randn(32, 16), mct.QuantizationConfig.from_bits("w4a8"))


def test_onnx_with_verification_reports_and_prints(model, tmp_path, capsys):
    inputs = np.random.default_rng(0).normal(size=(70, 16))
    report = export(model, tmp_path / "model.onnx", verify=inputs)
    out = capsys.readouterr()
    assert "Parity passed" in out.out
    assert "first.weight" in out.out
    assert out.err == ""
    assert report.path == tmp_path / "model.onnx"
    assert report.format is ExportFormat.ONNX
    assert report.file_size == report.path.stat().st_size
    assert report.parity.num_samples == 70
    values = json.loads(json.dumps(report.to_dict()))
    assert values["parity"]["passed"] is True
    assert str(report).startswith(f"Wrote {report.path}")
    assert str(report.parity) in str(report)


def test_quiet_prints_nothing(model, tmp_path, capfd):
    export(model, tmp_path / "model.onnx", verify=torch.randn(4, 16), quiet=True)
    export(model, tmp_path / "model.safetensors", verify=torch.randn(4, 16), quiet=True)
    assert capfd.readouterr() == ("", "")


def test_without_verification_there_is_no_parity(model, tmp_path):
    report = export(model, tmp_path / "model.onnx", example=torch.randn(4, 16))
    assert report.parity is None
    assert report.to_dict()["parity"] is None


def test_inputs_may_be_a_generator_that_runs_once(model, tmp_path):
    report = export(model, tmp_path / "a.onnx", verify=(torch.randn(3, 16) for _ in range(4)), quiet=True)
    assert report.parity.num_samples == 12
    report = export(model, tmp_path / "b.onnx", verify=lambda: [[torch.randn(3, 16)]], quiet=True)
    assert report.parity.num_samples == 3


def test_safetensors_reads_the_integers_back(model, tmp_path, capsys):
    report = export(model, tmp_path / "model.safetensors", verify=True)
    assert report.format is ExportFormat.SAFETENSORS
    assert report.parity.passed
    assert [tensor.name for tensor in report.parity.tensors] == ["first.weight", "last.weight"]
    assert report.parity.num_samples == 0
    assert report.parity.weight_bytes == (16 * 32 + 32 * 4) // 2
    assert "Parity passed" in capsys.readouterr().out
    inputs = torch.randn(4, 16)
    assert torch.equal(load(report.path, Small())(inputs), model(inputs))


def test_the_plan_can_be_read_from_either_file(model, tmp_path):
    for name in ("model.onnx", "model.safetensors"):
        report = export(model, tmp_path / name, example=torch.randn(4, 16), quiet=True)
        plan, info = read_plan(str(report.path))
        assert plan.to_dict() == mct.plan_of(model).to_dict()
        assert info.format is report.format
        assert info.file_size == report.file_size
        assert info.package_version == mct.__version__


def test_reading_a_plan_loads_no_framework(model, tmp_path):
    path = export(model, tmp_path / "model.safetensors", quiet=True).path
    code = (
        "import sys;"
        "from model_compression_toolkit.exporter import read_plan, ExportFormat, ParityReport, ExportReport;"
        "read_plan(sys.argv[1]);"
        "assert not {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(path)], check=True)


def test_damaged_and_foreign_onnx_files_have_no_plan(model, tmp_path):
    path = export(model, tmp_path / "model.onnx", example=torch.randn(4, 16), quiet=True).path
    content = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(content), 211), len(content) - 1]:
        path.write_bytes(content[:length])
        try:
            plan, _ = read_plan(path)
        except ValueError:
            continue
        # The end of a file may be cut where the plan stands whole.
        assert plan.to_dict() == mct.plan_of(model).to_dict()
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    for content in (foreign.SerializeToString(), b"no model", os.urandom(200)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Expected a"):
            read_plan(path)
    with pytest.raises(FileNotFoundError):
        read_plan(tmp_path / "none.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_an_interrupted_export_leaves_the_old_file_whole(model, tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_bytes(b"old")

    def refused(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="no space left"):
        export(model, path, example=torch.randn(4, 16), quiet=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"old")]


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_file_that_computes_something_else_raises_and_stays(model, tmp_path, monkeypatch, capsys, suffix, quiet):
    torch.manual_seed(1)
    other = mct.quantize(Small().eval(), torch.randn(32, 16), mct.QuantizationConfig.from_bits("w4a8"))
    inputs = torch.randn(8, 16)
    content = export(other, tmp_path / f"other{suffix}", example=inputs, quiet=True).path.read_bytes()
    for name, target in (("write_atomically", 0), ("save_frozen", 1)):
        # What comes between the export and the comparison: another model's file.
        monkeypatch.setattr(export_facade, name, lambda *args, at=target: args[at].write_bytes(content))
    path = tmp_path / f"model{suffix}"
    with pytest.raises(exporter.ParityError, match=r"does not compute what the model computes.*first at") as raised:
        export(model, path, verify=inputs, quiet=quiet)
    assert isinstance(raised.value, RuntimeError)
    report = raised.value.report
    assert report.path == path
    assert path.read_bytes() == content
    assert report.parity.first_divergence in ("x.output", "first.weight")
    assert not report.parity.passed
    assert "Parity FAILED" in str(raised.value)
    assert ("Parity FAILED" in capsys.readouterr().out) is not quiet
    twin = pickle.loads(pickle.dumps(raised.value))
    assert twin.report == report
    assert str(twin) == str(raised.value)
    # Without a comparison nothing is claimed.
    assert export(model, path, example=inputs, quiet=True).parity is None


def test_what_cannot_be_written_is_told_before_the_work(tmp_path):
    # No model is needed to see that the path is wrong.
    with pytest.raises(ValueError, match=r"\.onnx.*\.safetensors"):
        export(None, tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError):
        export(None, tmp_path / "none" / "model.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(IsADirectoryError):
        export(None, tmp_path / "folder.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_dependency_names_the_extra(model, tmp_path, missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None
import torch, model_compression_toolkit as mct
from export_networks import Small
from model_compression_toolkit.exporter import export
model = mct.quantize(Small().eval(), torch.randn(8, 16))
export(model, "model.safetensors", quiet=True)
try:
    export(model, "model.onnx", verify=torch.randn(2, 16))
except ImportError as error:
    assert "quantizers-infrastructure[onnx]" in str(error) and {missing!r} in str(error), error
else:
    raise SystemExit("no error")
"""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)


def test_the_room_lists_what_it_offers():
    assert dir(exporter) == exporter.__all__
    assert all(getattr(exporter, name) is not None for name in exporter.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        exporter.nothing  # noqa: B018
