# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a captured graph could be quantized, and why the others need not or cannot be."""

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from model_compression_toolkit.core.common.operation import Kind, Operation
from model_compression_toolkit.core.common.operation_graph import OperationGraph, float_weight_site, output_site
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorSite
from model_compression_toolkit.core.pytorch.batch_norm import LiveBatchNorm, can_fold
from model_compression_toolkit.core.pytorch.capture import Captured
from model_compression_toolkit.core.pytorch.data import Batch
from model_compression_toolkit.core.pytorch.exact_arguments import readings_of_node, traits_of_node
from model_compression_toolkit.core.pytorch.graph_arguments import GraphRunner
from model_compression_toolkit.core.pytorch.hooks import has_hooks
from model_compression_toolkit.core.pytorch.known_layers import known_weight_axis
from model_compression_toolkit.core.pytorch.operators import kind_of_node, type_of_node
from model_compression_toolkit.core.pytorch.weight_sites import weight_problem, weight_site


class GraphSites:
    """The tensors of a graph that torch.fx captured; see `OperationGraph`.

    Args:
        captured: a model captured as a graph.
        sample: inputs; one run tells the tensors' shapes.
    """

    def __init__(self, captured: Captured, sample: Batch) -> None:
        self.captured = captured
        self.root = captured.model
        recorder = _ShapeRecorder(captured.model)
        recorder.run_batch(sample)
        self.shapes = recorder.shapes
        self.nodes = list(captured.graph.nodes)
        self.kinds: dict[fx.Node, Kind] = {}
        for node in self.nodes:
            self.kinds[node] = self._kind(node)
        names = {node_name: layer for layer, node_name in captured.node_names.items()}
        self.layers = {node: names[node.name] for node in self.nodes if node.name in names}
        self.operations: dict[fx.Node, Operation] = {}
        for node in self.nodes:
            self.operations[node] = self._operation(node)
        self.graph = OperationGraph(self.operations.values())

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
                and known_weight_axis(self.root.get_submodule(str(source.target))) is None
                and len(source.users) == 1
                and calls.count(node.target) == calls.count(source.target) == 1
                # Over (N, L, C), a linear layer's channels are last and the batch norm's are not.
                and not (linear and axis != len(shape) - 1)
                and not weight_problem(self.root.get_submodule(source.target))
                # A hook sees the result of the layer, or of the batch norm, alone.
                and not has_hooks(self.root.get_submodule(source.target))
                and not has_hooks(self.root.get_submodule(node.target))
                and not self._shares_parameters(str(source.target), str(node.target))
            ):
                pairs[str(node.target)] = str(source.target)
        return pairs

    def sites(self, config: QuantizationConfig) -> Iterator[TensorSite]:
        """Every weight and every floating-point tensor, in the order of execution."""
        seen: set[Any] = set()
        for node, operation in self.operations.items():
            if self.kinds[node] is Kind.WEIGHTED:
                if node.target not in seen:
                    module = self.root.get_submodule(str(node.target))
                    yield weight_site(
                        str(node.target), module, operation in self.graph.end_layers, weight_problem(module)
                    )
                seen.add(node.target)
            elif node.op == "call_module" and node.target not in seen:
                seen.add(node.target)
                yield from self._float_weights(node)
            elif node.op == "get_attr" and node in self.shapes:
                yield output_site(operation, "a parameter used by a functional operation stays in float")
                continue
            if node.op != "output" and node in self.shapes:
                yield self.graph.activation_site(operation, config)

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
        if node.op == "call_module" and node.target in self.captured.identities:
            return Kind.PRESERVING
        kind = kind_of_node(node, self.root)
        if node.target is operator.getitem:
            source = node.all_input_nodes[0]
            if source not in self.shapes and self.kinds[source] is not Kind.PRESERVING:
                # One of several results of a layer such as LSTM: new values, not a part of a quantized tensor.
                return Kind.OTHER
        return kind

    def _operation(self, node: fx.Node) -> Operation:
        return Operation(
            layer=self.layers.get(node, node.name),
            kind=self.kinds[node],
            type=self._type(node),
            sources=[self.operations[source] for source in node.all_input_nodes],
            shape=self.shapes.get(node),
            is_input=node.op == "placeholder",
            is_output=node.op == "output",
            is_lookup=isinstance(self._module(node), nn.Embedding),
            readings={self.operations[item]: way for item, way in readings_of_node(node, self.root).items()},
            traits=traits_of_node(node, self.root),
        )

    def _float_weights(self, node: fx.Node) -> Iterator[TensorSite]:
        module = self.root.get_submodule(str(node.target))
        if self.kinds[node] in (Kind.BATCH_NORM, Kind.ACTIVATION):
            return
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                yield float_weight_site(str(node.target), name, type(module).__name__, tuple(parameter.shape))

    def _type(self, node: fx.Node) -> str:
        module = self._module(node)
        return type(module.norm).__name__ if isinstance(module, LiveBatchNorm) else type_of_node(node, self.root)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None


class _ShapeRecorder(GraphRunner):
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
