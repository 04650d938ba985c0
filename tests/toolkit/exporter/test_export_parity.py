# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import io
import json

import numpy as np
import onnx
import pytest
import torch
from export_networks import Images, images, settle
from onnx import numpy_helper
from rich.console import Console

import model_compression_toolkit as mct
from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.pytorch.data import batches_of
from model_compression_toolkit.exporter import ParityReport, export
from model_compression_toolkit.exporter.common.parity import DEFAULT_OUTPUT, OUTPUT, TensorParity, near_tie_bound
from model_compression_toolkit.exporter.pytorch.parity import compare_onnx


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = mct.quantize(settle(Images()), images(32), mct.QuantizationConfig.from_bits("w4a8"))
    path = tmp_path_factory.mktemp("parity") / "model.onnx"
    data = images(100)
    return model, path, data, export(model, path, verify=data, quiet=True)


def planted(exported, tmp_path, change):
    """The comparison after `change` edited the arrays of the file."""
    model, path, data, _ = exported
    proto = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    change(proto.graph, tensors)
    onnx.save(proto, tmp_path / "changed.onnx")
    return compare_onnx(model, tmp_path / "changed.onnx", batches_of(data))


def edit(tensors, name, change):
    tensor = tensors[name]
    array = np.array(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(array), array.dtype), name))


def test_an_honest_file_passes_over_all_samples(exported):
    parity = exported[3].parity
    assert parity.passed
    assert parity.first_divergence is None
    assert parity.num_samples == 100
    assert parity.argmax_agreement == 1.0
    assert 0.97 <= parity.default_session_argmax_agreement <= 1.0
    assert parity.max_output_difference < 1e-2
    assert parity.file_size == exported[3].file_size == exported[1].stat().st_size
    assert parity.weight_bytes == sum(t.num_bytes for t in mct.plan_of(exported[0]).quantized() if t.is_weight)
    for tensor in parity.tensors:
        if tensor.target is QuantizationTarget.Weights:
            assert tensor.num_different == 0
        else:
            assert tensor.max_steps <= 1
            assert tensor.near_tie_excess <= near_tie_bound(tensor.num_bits)
            assert tensor.num_different <= tensor.num_elements // 1000
    counted = {tensor.name: tensor.num_elements for tensor in parity.tensors}
    assert counted["x.output"] == 100 * 3 * 8 * 8


def test_one_wrong_code_of_a_weight_is_found_and_named(exported, tmp_path):
    def change(graph, tensors):
        def flip(codes):
            codes = codes.astype(np.int32)
            codes[3, 2, 1, 1] += 1 if codes[3, 2, 1, 1] < 7 else -1
            return codes

        tensor = tensors["grouped.weight/codes"]
        array = flip(np.array(numpy_helper.to_array(tensor)))
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.reshape(-1)))

    parity = planted(exported, tmp_path, change)
    assert not parity.passed
    assert parity.first_divergence == "grouped.weight"
    (tensor,) = (tensor for tensor in parity.tensors if tensor.name == "grouped.weight")
    assert (tensor.num_different, tensor.max_steps, tensor.grid_differs) == (1, 1, False)


@pytest.mark.parametrize("name", ["narrow.weight", "hardswish.output", "x.output", "head.weight"])
def test_a_wrong_scale_is_found_and_named(exported, tmp_path, name):
    def change(graph, tensors):
        edit(tensors, f"{name}/scale", lambda scale: scale * np.float32(1.001))

    parity = planted(exported, tmp_path, change)
    assert parity.first_divergence == name
    assert next(tensor for tensor in parity.tensors if tensor.name == name).grid_differs


def test_a_wrong_zero_point_is_found_and_named(exported, tmp_path):
    def change(graph, tensors):
        edit(tensors, "hardswish.output/zero_point", lambda zero_point: zero_point + 1)

    assert planted(exported, tmp_path, change).first_divergence == "hardswish.output"


def bias_of(graph, layer):
    """The bias of the operator that takes the dequantized weight of `layer`."""
    reads = {f"{layer}.weight/dequantized"}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if reads & set(node.input):
            # An input of the operator, or below 8 bits an addition of its own behind it.
            candidates = node.input[2:] if node.op_type != "Add" else set(node.input) & constants
            if candidates:
                (bias,) = candidates
                return bias
            reads |= set(node.output)
    raise LookupError(layer)


def test_a_bias_that_is_off_by_half_a_step_is_found_though_no_code_is_off_by_two(exported, tmp_path):
    params = mct.plan_of(exported[0])["hardswish.output"].params

    def change(graph, tensors):
        edit(tensors, bias_of(graph, "depthwise"), lambda bias: bias + np.float32(0.5 * params.scale[0]))

    parity = planted(exported, tmp_path, change)
    assert parity.first_divergence == "hardswish.output"
    (tensor,) = (tensor for tensor in parity.tensors if tensor.name == "hardswish.output")
    assert tensor.max_steps == 1
    assert 0.1 < tensor.near_tie_excess <= 0.6
    # Replay: the difference does not spread to what comes after.
    after = [tensor.name for tensor in parity.tensors].index("hardswish.output") + 1
    assert not any(tensor.diverges for tensor in parity.tensors[after:])


def test_a_defect_behind_the_last_quantizer_is_found_at_the_output(exported, tmp_path):
    def change(graph, tensors):
        edit(tensors, bias_of(graph, "head"), lambda bias: bias + np.float32(0.01))

    parity = planted(exported, tmp_path, change)
    assert parity.first_divergence == OUTPUT
    assert parity.max_output_difference == pytest.approx(0.01, rel=0.1)


WEIGHT = TensorParity("fc.weight", QuantizationTarget.Weights, 4, 100)
ACTIVATION = TensorParity("relu.output", QuantizationTarget.Activation, 8, 1000)


@pytest.mark.parametrize(
    ("tensor", "diverges"),
    [
        (WEIGHT, False),
        (dataclasses.replace(WEIGHT, num_different=1, max_steps=1), True),
        (dataclasses.replace(WEIGHT, grid_differs=True), True),
        (ACTIVATION, False),
        (dataclasses.replace(ACTIVATION, num_different=9, max_steps=1, near_tie_excess=1e-5), False),
        (dataclasses.replace(ACTIVATION, num_different=9, max_steps=1, near_tie_excess=0.3), True),
        (dataclasses.replace(ACTIVATION, num_different=9, max_steps=2), True),
        (dataclasses.replace(ACTIVATION, grid_differs=True), True),
    ],
)
def test_what_counts_as_divergence(tensor, diverges):
    assert tensor.diverges is diverges
    report = ParityReport((WEIGHT, dataclasses.replace(tensor, name="second")), 10, 1000, 50)
    assert report.passed is not diverges
    assert report.first_divergence == ("second" if diverges else None)


def test_an_output_that_is_not_a_number_is_a_divergence():
    report = ParityReport((WEIGHT,), 10, 1000, 50, replayed_output_difference=float("nan"))
    assert report.first_divergence == OUTPUT


@pytest.mark.parametrize(("error", "expected"), [(0.02, None), (0.021, DEFAULT_OUTPUT), (np.nan, DEFAULT_OUTPUT)])
def test_a_default_session_beyond_its_tolerance_is_a_divergence(error, expected):
    report = ParityReport((WEIGHT,), 10, 1000, 50, default_session_error=float(error), default_session_tolerance=0.02)
    assert report.first_divergence == expected
    assert report.passed == (expected is None)


def rendered(report):
    stream = io.StringIO()
    Console(file=stream, width=100).print(report.render())
    return stream.getvalue()


def test_the_report_reads_as_text_table_and_json():
    report = ParityReport((WEIGHT, ACTIVATION), 10, 1234, 50, 1.0, 0.9, 0.001, 0.002, 0.0, 0.01, 0.02)
    assert str(report).splitlines() == [
        "Parity passed: the file computes what the model computes",
        "  1 weights: 0 of 100 integers differ, by at most 0 steps",
        "  1 activations: 0 of 1,000 integers differ, by at most 0 steps",
        "  outputs over 10 samples, largest difference: 0.001",
        "    in a session with default optimizations: 0.002 (error 0.01, allowed 0.02)",
        "  same class: 100.00% of the samples, 90.00% with default optimizations",
        "  file: 1,234 bytes; integers of the weights, packed: 50 bytes",
    ]
    table = rendered(report)
    assert "fc.weight" in table
    assert str(report) in table
    values = json.loads(json.dumps(report.to_dict()))
    assert values["passed"] is True
    assert values["first_divergence"] is None
    assert values["default_session_argmax_agreement"] == 0.9
    assert [tensor["name"] for tensor in values["tensors"]] == ["fc.weight", "relu.output"]


def test_a_failed_report_names_the_place_first():
    wrong = dataclasses.replace(WEIGHT, name="[bold]layer[/bold]." + 40 * "deep." + "weight", num_different=3)
    report = ParityReport((wrong, ACTIVATION), 0, 1234, 50)
    assert str(report).startswith("Parity FAILED: the file diverges from the model, first at [bold]layer")
    assert report.to_dict()["first_divergence"] == wrong.name
    # Names are text, no markup, and are folded, never cut.
    assert "[bold]" in rendered(report)
    assert "…" not in rendered(report)
