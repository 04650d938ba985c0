# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a captured graph could be quantized, and why the others need not or cannot be."""

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_plan import TensorSite
from model_compression_toolkit.core.pytorch.batch_norm import LiveBatchNorm, can_fold
from model_compression_toolkit.core.pytorch.capture import Captured
from model_compression_toolkit.core.pytorch.data import Batch, clone_batch
from model_compression_toolkit.core.pytorch.operators import Kind, kind_of_node, type_of_node
from model_compression_toolkit.core.pytorch.weight_sites import float_weight_site, weight_problem, weight_site

_FUSING = (Kind.WEIGHTED, Kind.COMPUTE, Kind.ADD, Kind.BATCH_NORM)


class GraphSites:
    """The tensors of a captured graph.

    Every floating-point tensor that an operation makes is a site, except where an integer runtime keeps it in the wide
    accumulator: a product before its batch norm, an activation function after either, and one operand of an addition.

    Args:
        captured: a model captured as a graph.
        sample: inputs; one run tells the tensors' shapes.
    """

    def __init__(self, captured: Captured, sample: Batch) -> None:
        self.captured = captured
        self.root = captured.model
        recorder = _ShapeRecorder(captured.model)
        recorder.run(*clone_batch(sample))
        self.shapes = recorder.shapes
        self.nodes = list(captured.graph.nodes)
        self.kinds: dict[fx.Node, Kind] = {}
        for node in self.nodes:
            self.kinds[node] = self._kind(node)
        names = {node_name: layer for layer, node_name in captured.node_names.items()}
        self.layers = {node: names[node.name] for node in self.nodes if node.name in names}

    def foldable_batch_norms(self) -> dict[str, str]:
        """The layer into which each batch norm can be folded, by the name of the batch norm."""
        pairs = {}
        calls = [node.target for node in self.nodes if node.op == "call_module"]
        for node in self.nodes:
            if self.kinds[node] is not Kind.BATCH_NORM or not can_fold(self.root.get_submodule(node.target)):
                continue
            source = node.all_input_nodes[0]
            shape = self.shapes.get(source, ())
            axis = 1 if len(shape) > 1 else 0
            linear = isinstance(self._module(source), nn.Linear)
            if (
                self.kinds[source] is Kind.WEIGHTED
                and not isinstance(self._module(source), nn.Embedding)
                and len(source.users) == 1
                and calls.count(node.target) == calls.count(source.target) == 1
                # Over (N, L, C), a linear layer's channels are last and the batch norm's are not.
                and not (linear and axis != len(shape) - 1)
                and not weight_problem(self.root.get_submodule(source.target))
                and not self._shares_parameters(str(source.target), str(node.target))
            ):
                pairs[str(node.target)] = str(source.target)
        return pairs

    def sites(self, quantize_output: bool) -> Iterator[TensorSite]:
        """Every weight and every floating-point tensor, in the order of execution."""
        end_layers, feeding_ends = self._first_and_last()
        fused = self._fused_into()
        seen: set[Any] = set()
        for node in self.nodes:
            if self.kinds[node] is Kind.WEIGHTED:
                if node.target not in seen:
                    module = self.root.get_submodule(node.target)
                    yield weight_site(node.target, module, node in end_layers, weight_problem(module))
                seen.add(node.target)
            elif node.op == "call_module" and node.target not in seen:
                seen.add(node.target)
                yield from self._float_weights(node)
            elif node.op == "get_attr" and node in self.shapes:
                yield self._site(node, False, "a parameter used by a functional operation stays in float")
                continue
            if node.op != "output" and node in self.shapes:
                yield self._activation_site(node, node in feeding_ends, fused, quantize_output)

    def _shares_parameters(self, *layers: str) -> bool:
        """Whether another layer or operation uses a parameter or buffer of one of the layers too."""
        read = {str(node.target).rpartition(".")[0] for node in self.nodes if node.op == "get_attr"}
        if not read.isdisjoint(layers):
            return True
        uses = Counter(id(parameter) for _, parameter in self.root.named_parameters(remove_duplicate=False))
        own = (parameter for layer in layers for parameter in self.root.get_submodule(layer).parameters())
        return any(uses[id(parameter)] > 1 for parameter in own)

    def _kind(self, node: fx.Node) -> Kind:
        if isinstance(self._module(node), LiveBatchNorm):
            return Kind.BATCH_NORM
        kind = kind_of_node(node, self.root)
        if node.target is operator.getitem:
            source = node.all_input_nodes[0]
            if source not in self.shapes and self.kinds[source] is not Kind.PRESERVING:
                # One of several results of a layer such as LSTM: new values, not a part of a quantized tensor.
                return Kind.OTHER
        return kind

    def _activation_site(
        self, node: fx.Node, near_end: bool, fused: dict[fx.Node, fx.Node], quantize_output: bool
    ) -> TensorSite:
        reason = ""
        if node in fused:
            reason = f"fused into {self.layers[fused[node]]}: stays in the accumulator"
        elif self.kinds[node] is Kind.PRESERVING:
            reason = "keeps the grid of its input"
        elif isinstance(self._module(node), nn.Embedding):
            reason = "its rows come from the weight"
        elif not node.users:
            reason = "its value is not used"
        elif all(user.op == "output" for user in node.users) and not quantize_output:
            reason = "an output of the model (quantize_output=False)"
        return self._site(node, near_end, reason)

    def _site(self, node: fx.Node, near_end: bool, reason: str) -> TensorSite:
        return TensorSite(
            layer=self.layers[node],
            tensor="output",
            target=QuantizationTarget.Activation,
            type=self._type(node),
            shape=self.shapes[node],
            first_or_last=near_end,
            reason=reason,
        )

    def _float_weights(self, node: fx.Node) -> Iterator[TensorSite]:
        module = self.root.get_submodule(str(node.target))
        if self.kinds[node] in (Kind.BATCH_NORM, Kind.ACTIVATION):
            return
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                yield float_weight_site(str(node.target), name, module, tuple(parameter.shape))

    def _type(self, node: fx.Node) -> str:
        module = self._module(node)
        return type(module.norm).__name__ if isinstance(module, LiveBatchNorm) else type_of_node(node, self.root)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _fused_into(self) -> dict[fx.Node, fx.Node]:
        """The operation that takes each fused tensor in."""
        fused: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            kind = self.kinds[node]
            candidates = [
                source
                for source in node.all_input_nodes
                if source in self.shapes and self.kinds[source] in _FUSING and len(source.users) == 1
            ]
            if kind in (Kind.ACTIVATION, Kind.BATCH_NORM):
                fused.update({source: node for source in candidates})
            elif kind is Kind.ADD and len(node.all_input_nodes) > 1:
                # One operand can be the accumulator; the other is read from memory. The latest is the natural one.
                products = [s for s in candidates if self.kinds[s] is not Kind.ADD]
                fused.update({source: node for source in products[-1:]})
        return fused

    def _first_and_last(self) -> tuple[set[fx.Node], set[fx.Node]]:
        """The first and last layers, and the operations whose outputs feed them."""
        first = self._reachable((n for n in self.nodes if n.op == "placeholder"), forward=True)
        last = self._reachable((n for n in self.nodes if n.op == "output"), forward=False)
        layers = first | last
        return layers, {source for layer in layers for source in self._feeding(layer)}

    def _reachable(self, starts: Iterator[fx.Node], forward: bool) -> set[fx.Node]:
        """Weighted layers that are reached from `starts` without passing another weighted layer."""
        found: set[fx.Node] = set()
        visited: set[fx.Node] = set()
        queue = list(starts)
        while queue:
            node = queue.pop()
            for neighbour in node.users if forward else node.all_input_nodes:
                if neighbour in visited:
                    continue
                visited.add(neighbour)
                if self.kinds[neighbour] is Kind.WEIGHTED:
                    found.add(neighbour)
                else:
                    queue.append(neighbour)
        return found

    def _feeding(self, node: fx.Node) -> Iterator[fx.Node]:
        """The tensors that reach a layer through operations that only move values."""
        for source in node.all_input_nodes:
            if self.kinds[source] is Kind.PRESERVING:
                yield from self._feeding(source)
            else:
                yield source


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shapes of its floating-point tensors."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    @torch.no_grad()
    def run(self, *args: Any, **kwargs: Any) -> Any:
        return super().run(*args, **kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.shapes[n] = tuple(result.shape)
        return result
