# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Holds an exported ONNX file, run by ONNX Runtime on the CPU, against the model that it was made from."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.progress import track
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.capture import run_model
from model_compression_toolkit.core.pytorch.data import Batch
from model_compression_toolkit.core.pytorch.surgery import quantizer_of
from model_compression_toolkit.exporter.common.default_session import DefaultSession, rounding_noise
from model_compression_toolkit.exporter.common.output_comparison import OutputComparison
from model_compression_toolkit.exporter.common.parity import ParityReport, TensorParity
from model_compression_toolkit.exporter.common.pieces import pieces_of
from model_compression_toolkit.exporter.pytorch.frozen import (
    TensorCall,
    float32_copy,
    frozen_plan,
    own_quantized,
    replace_quantizers,
)
from model_compression_toolkit.exporter.pytorch.frozen_parity import (
    compare_weight,
    compared_of,
    num_bits_of,
    packed_weight_bytes,
)
from model_compression_toolkit.exporter.pytorch.onnx_runs import OnnxFile
from model_compression_toolkit.exporter.pytorch.replay import Replay

__all__ = ["compare_onnx"]

Array = npt.NDArray[Any]


@torch.no_grad()
def compare_onnx(model: nn.Module, path: Path, batches: Iterable[Batch]) -> ParityReport:
    """Compare a file with its model: every weight, every activation and the outputs, over all samples.

    Args:
        model: the frozen model; it is not changed.
        path: the file that was exported from it.
        batches: inputs; run in pieces of at most 64 samples.

    Raises:
        OSError: the file cannot be read.
        ValueError: the model is not frozen or does not take the inputs.
    """
    plan = frozen_plan(model)
    file = OnnxFile(path)
    file.open_sessions()
    free = float32_copy(model, plan)
    replay = Replay({tensor.name: quantizer_of(free, tensor) for tensor in own_quantized(plan)})
    replayed = replace_quantizers(
        float32_copy(model, plan), plan.quantized(QuantizationTarget.Activation), replay.quantize
    )
    disturbed = replace_quantizers(
        float32_copy(model, plan), plan.quantized(QuantizationTarget.Activation), _disturbance(replay)
    )
    plain, forced = OutputComparison(), OutputComparison()
    default = DefaultSession(lambda: _tensors(run_model(disturbed, batch)))
    num_samples = 0
    for batch, count in track(_pieces(batches, file.batch_size), "Comparing file and model"):
        num_samples += count
        run = file.run_plain(batch)
        expected = _tensors(run_model(free, batch))
        plain.compare(run.outputs, expected, count)
        default.compare(file.run_default(batch), expected, count)
        replay.start(run.quantized)
        forced.compare(run.outputs, _tensors(run_model(replayed, batch)), count)
    tensors = tuple(_tensors_of(model, plan, file, replay))
    found = {tensor.name for tensor in tensors}
    absent = [tensor.name for tensor in plan.quantized() if tensor.name not in found]
    return ParityReport(
        tensors=tensors,
        num_samples=num_samples,
        file_size=path.stat().st_size,
        weight_bytes=packed_weight_bytes(plan),
        argmax_agreement=plain.agreement,
        default_session_argmax_agreement=default.outputs.agreement,
        max_output_difference=plain.largest,
        default_session_max_output_difference=default.outputs.largest,
        replayed_output_difference=forced.relative,
        default_session_error=default.outputs.error,
        default_session_tolerance=default.tolerance,
        not_compared=tuple(f"{name}, on which nothing in the file depends" for name in absent),
    )


def _disturbance(replay: Replay) -> TensorCall:
    """Quantizes with the noise of one more rounding."""

    def quantize(x: Tensor, tensor: TensorPlan) -> Tensor:
        return replay.quantized(x + torch.from_numpy(rounding_noise(tuple(x.shape), tensor.params)), tensor)

    return quantize


def _tensors_of(model: nn.Module, plan: QuantizationPlan, file: OnnxFile, replay: Replay) -> Iterator[TensorParity]:
    constants = file.quantized({})
    for tensor in plan.quantized():
        if tensor.is_weight and tensor.name in constants:
            differs = not file.has_params(tensor.name, tensor)
            yield compare_weight(model, tensor, constants[tensor.name], differs)
        elif tensor.name in replay.tallies:
            tally = replay.tallies[tensor.name]
            yield TensorParity(
                name=tensor.name,
                target=tensor.site.target,
                num_bits=num_bits_of(tensor),
                num_elements=tally.total.num_elements,
                num_different=tally.total.num_different,
                max_steps=tally.total.max_steps,
                near_tie_excess=tally.total.excess,
                grid_differs=not all(file.has_params(use, tensor) for use in tally.uses),
                compared=compared_of(tensor),
                max_difference=tally.total.max_difference,
            )


def _pieces(batches: Iterable[Batch], fixed_size: int | None) -> Iterator[tuple[Batch, int]]:
    """Batches in float32 on the CPU of a size that the file takes, each with the number of samples that matter."""
    for items in batches:
        batch = tuple(item.detach().cpu().float() if item.is_floating_point() else item.cpu() for item in items)
        yield from pieces_of(batch, fixed_size, lambda item, at: item[torch.tensor(at, device=item.device)])


def _tensors(outputs: Any) -> list[Array]:
    return [leaf.numpy() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
