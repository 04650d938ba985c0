# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The commands as a user calls them: results, exit codes, one-line errors."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

import model_compression_toolkit as mct
from model_compression_toolkit import cli
from model_compression_toolkit.cli import demo
from model_compression_toolkit.exporter.pytorch import export_facade, parity

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )

def regression():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))

def features():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))

not_a_function = 5

def wrong():
    return 5
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "user_network.py").write_text(FACTORY, encoding="utf-8")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(96, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images, y=generator.integers(0, 3, 96))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("user_network", None)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mct", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def with_data(name):
    return ("quantize", "--model", "user_network:build", "--data", name, "--out", "out")


def with_model(factory):
    return ("quantize", "--model", factory, "--data", "data.npz", "--out", "out")


QUANTIZE = with_data("data.npz")


def test_quantize_after_training_writes_a_proven_file(workspace, monkeypatch, capsys):
    assert run(monkeypatch, *QUANTIZE, "--bits", "w4a8") == 0
    text = capsys.readouterr().out
    assert "Parity passed" in text
    report = json.loads((workspace / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["parity"]["passed"]
    assert report["quantized_weights"] == 3
    types = {item.data_type for item in onnx.load("out/model.onnx").graph.initializer}
    assert onnx.TensorProto.INT4 in types


def test_quantize_with_training_uses_weights_config_and_labels(workspace, monkeypatch, capsys):
    sys.path.insert(0, str(workspace))
    import user_network

    network = user_network.build()
    with torch.no_grad():
        network[0].weight.mul_(3.0)
    save_file(network.state_dict(), "weights.safetensors")
    Path("config.json").write_text(json.dumps({"first_last_bits": None, "weights": {"num_bits": 8}}), encoding="utf-8")
    assert (
        run(monkeypatch, *QUANTIZE, "--weights", "weights.safetensors", "--config", "config.json", "--bits", "w2a3",
            "--qat-epochs", 2, "--json")
        == 0
    )  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    bits = {
        f"{tensor['site']['layer']}.{tensor['site']['tensor']}": tensor["config"]["num_bits"]
        for tensor in report["plan"]["tensors"]
        if tensor["config"]
    }
    assert {name: value for name, value in bits.items() if name.endswith("weight")} == dict.fromkeys(
        ("0.weight", "3.weight", "6.weight"), 2
    )
    assert set(bits.values()) == {2, 3}
    with np.load("data.npz") as data, torch.no_grad():
        correct = network.eval()(torch.tensor(data["x"])).argmax(1).numpy() == data["y"]
    assert report["accuracy"]["float"] == pytest.approx(100 * correct.mean())
    assert 0 <= report["accuracy"]["quantized"] <= 100
    assert report["parity"]["passed"]


def test_quantize_reads_a_folder_of_arrays(workspace, monkeypatch, capsys):
    Path("parts").mkdir()
    images = np.load("data.npz")["x"]
    np.save("parts/b.npy", images[64:])
    np.save("parts/a.npy", images[:64])
    arguments = ("quantize", "--model", "user_network:build", "--data", "parts", "--out", "out", "--json")
    assert run(monkeypatch, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["num_samples"] == 96


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_inspect_prints_the_plan_of_what_was_written(name, workspace, monkeypatch, capsys):
    assert run(monkeypatch, *QUANTIZE, "--bits", "w4a4", "--first-last-bits", 8) == 0
    capsys.readouterr()
    assert run(monkeypatch, "inspect", f"out/{name}", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    # Three weights of 36, 144 and 192 elements; the first and the last have 8 bits, the middle one 4.
    assert plan["weight_bytes"] == 36 + 144 // 2 + 192
    assert plan["quantized_weights"] == 3
    assert run(monkeypatch, "inspect", f"out/{name}", "--all") == 0
    text = capsys.readouterr().out
    assert "3 weights and 3 activations quantized" in text
    assert "accumulator" in text


@pytest.mark.parametrize(("bits", "expected"), [((), {4}), (("--first-last-bits", 6), {4, 6})])
def test_the_widths_asked_for_are_the_widths_of_the_file(bits, expected, workspace, monkeypatch, capsys):
    Path("config.json").write_text('{"weights": {"num_bits": 2}, "first_last_bits": null}', encoding="utf-8")
    assert run(monkeypatch, *QUANTIZE, "--config", "config.json", "--bits", "w4a4", *bits, "--json") == 0
    plan = mct.QuantizationPlan.from_dict(json.loads(capsys.readouterr().out)["plan"])
    assert {tensor.config.num_bits for tensor in plan.quantized()} == expected


@pytest.mark.parametrize(("factory", "shape"), [("regression", "(96,)"), ("features", "(96, 2, 4, 4)")])
@pytest.mark.parametrize("epochs", [0, 1])
def test_outputs_without_classes_are_reported_without_accuracy(factory, shape, epochs, workspace, monkeypatch, capsys):
    assert run(monkeypatch, *with_model(f"user_network:{factory}"), "--qat-epochs", epochs) == 0
    report = json.loads((workspace / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["proven"] is True
    assert report["accuracy"] is None
    note = f"`y` is not used: it needs an output of class scores, shape (N, C). The network has shape {shape}"
    assert note in report["notes"]
    assert note in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_file_that_is_not_proven_fails_with_its_report(as_json, workspace, monkeypatch, capsys):
    compare = parity.compare_onnx

    def differently(*arguments):
        return dataclasses.replace(compare(*arguments), replayed_output_difference=0.5)

    monkeypatch.setattr(parity, "compare_onnx", differently)
    Path("out").mkdir()
    Path("out/report.json").write_text("old", encoding="utf-8")
    assert run(monkeypatch, *QUANTIZE, *as_json) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "out/model.onnx was written, but does not compute what the model computes" in captured.err
    report = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert report["proven"] is False
    assert report["parity"]["first_divergence"] == "output"
    assert report["accuracy"] is not None
    assert all(Path(file).exists() for file in report["files"])
    if as_json:
        assert json.loads(captured.out) == report


def test_an_old_report_never_stands_beside_a_new_model(workspace, monkeypatch, capsys):
    assert run(monkeypatch, *QUANTIZE) == 0
    old = Path("out/model.onnx").read_bytes()

    def refused(*_):
        raise OSError("no space left")

    monkeypatch.setattr(export_facade, "save_frozen", refused)
    assert run(monkeypatch, *QUANTIZE, "--bits", "w4a4") == 1
    assert "no space left" in capsys.readouterr().err
    assert Path("out/model.onnx").read_bytes() != old
    assert not Path("out/report.json").exists()


ERRORS = {
    "bits": ((*QUANTIZE, "--bits", "8"), "`bits` must look like 'w4a8'"),
    "width": ((*QUANTIZE, "--bits", "w17a8"), "`num_bits` must be from 1 to 16"),
    "form of the factory": (
        with_model("x"),
        "package.module:factory",
    ),
    "unknown module": (with_model("nowhere:f"), "'nowhere'"),
    "no function": (
        with_model("user_network:not_a_function"),
        "must name a function",
    ),
    "no module": (with_model("user_network:wrong"), "Received: int"),
    "no data": (with_data("no.npz"), "does not exist"),
    "empty folder": (
        with_data("empty"),
        "which has none",
    ),
    "pickled data": (with_data("pickle.npz"), "numbers"),
    "no array x": (with_data("names.npz"), "as `x`"),
    "no samples": (with_data("zero.npz"), "at least one"),
    "labels": (with_data("labels.npz"), "`y` must hold"),
    "shape": (
        with_data("shape.npz"),
        "`data` must yield",
    ),
    "foreign weights": ((*QUANTIZE, "--weights", "data.npz"), "must be a safetensors file"),
    "other weights": ((*QUANTIZE, "--weights", "other.safetensors"), "must fit the network"),
    "config": ((*QUANTIZE, "--config", "typo.json"), "Received unknown: ['weightz']"),
    "config no JSON": ((*QUANTIZE, "--config", "data.npz"), "Expected a JSON file"),
    "out is a file": (
        ("quantize", "--model", "user_network:build", "--data", "data.npz", "--out", "data.npz"),
        "data.npz",
    ),
    "inspect nothing": (("inspect", "no.onnx"), "exists"),
    "inspect foreign onnx": (("inspect", "foreign.onnx"), "has none"),
    "inspect truncated": (("inspect", "truncated.safetensors"), "whole .safetensors"),
    "inspect other suffix": (("inspect", "data.npz"), ".onnx"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_line_and_leaves_nothing(case, workspace, monkeypatch, capsys):
    images = np.load("data.npz")["x"]
    Path("empty").mkdir()
    np.savez("pickle.npz", x=np.array([{}, {}], dtype=object))
    np.savez("names.npz", a=images, b=images)
    np.savez("zero.npz", x=images[:0])
    np.savez("labels.npz", x=images, y=np.zeros(3, np.int64))
    np.savez("shape.npz", x=images[:, :, :4])
    save_file({"other": torch.zeros(2)}, "other.safetensors")
    Path("typo.json").write_text('{"weightz": {}}', encoding="utf-8")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:])), "foreign.onnx")
    Path("truncated.safetensors").write_bytes(Path("other.safetensors").read_bytes()[:20])

    arguments, expected = ERRORS[case]
    assert run(monkeypatch, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert not list(workspace.glob("out/*"))


def test_debug_shows_the_traceback(workspace, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mct", "--debug", *QUANTIZE, "--bits", "8"])
    with pytest.raises(ValueError, match="w4a8"):
        cli.main()


def test_wrong_usage_exits_with_two(monkeypatch, capsys):
    assert run(monkeypatch, "quantize") == 2
    assert "--model" in capsys.readouterr().err
    assert run(monkeypatch, "demo", "--seeds", "0") == 2


def test_help_loads_no_framework():
    code = (
        "import sys; from model_compression_toolkit import cli; sys.argv = ['mct', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'onnx', 'sklearn', 'onnxruntime'} & set(sys.modules), sorted(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(verb in result.stdout for verb in ("demo", "quantize", "inspect"))


def test_demo_runs_every_model_and_proves_each_file(tmp_path, monkeypatch, capsys):
    # One epoch each: the path is what is tested here, the accuracies stand in docs/results.md.
    monkeypatch.setattr(demo, "QAT_EPOCHS", dict.fromkeys(demo.QAT_EPOCHS, 1))
    assert run(monkeypatch, "demo", "--out", tmp_path / "demo", "--float-epochs", 2, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["model"] for row in rows] == ["float", "w8a8", "w4a4", "w2a4", "w2a2"]
    for row in rows[1:]:
        assert row["weights_equal"], row
        assert row["proven"] is True, row
        assert row["max_steps"] <= 1, row
        assert (tmp_path / "demo" / f"{row['model']}.onnx").stat().st_size == row["file_size"]
    sizes = {row["model"]: row["file_size"] for row in rows}
    assert sizes["w4a4"] < 0.7 * sizes["w8a8"] < 0.7 * sizes["float"]
