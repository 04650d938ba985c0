# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers in the operators of ONNX for whole sequences.

The order of the gates is changed in the integers of a weight and in its scales, so that the file has no nodes for it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["RECURRENT", "RECURRENT_ARGUMENTS"]

Array = npt.NDArray[Any]

RECURRENT_ARGUMENTS = ("initial_state",)
"""What can be exported of what the layers take besides their input."""

# By the name that they have in `keras.activations`; those of ONNX have no parameters, or the ones given.
_ACTIVATIONS: dict[str, tuple[str, tuple[float, float] | None]] = {
    "tanh": ("Tanh", None),
    "sigmoid": ("Sigmoid", None),
    "relu": ("Relu", None),
    "softplus": ("Softplus", None),
    "softsign": ("Softsign", None),
    "hard_sigmoid": ("HardSigmoid", (1 / 6, 0.5)),
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A class of layers.

    Attributes:
        op_type: its operator.
        gates: for each gate of the operator its place among those of Keras.
        activations: attributes of the cell with the operator's activation functions.
    """

    op_type: str
    gates: tuple[int, ...]
    activations: tuple[str, ...]


# Keras has the gates of LSTM in the order input, forget, cell, output; ONNX input, output, forget, cell.
_KINDS: dict[type, _Kind] = {
    layers.LSTM: _Kind("LSTM", (0, 3, 1, 2), ("recurrent_activation", "activation", "activation")),
    layers.GRU: _Kind("GRU", (0, 1, 2), ("recurrent_activation", "activation")),
    layers.SimpleRNN: _Kind("RNN", (0,), ("activation",)),
}


@dataclass(frozen=True, slots=True)
class _Run:
    """What a layer makes of its sequences.

    Attributes:
        sequence: its results, shape (batch, time, units), in the order of time.
        states: its last states, each of shape (batch, units); the first is its last result.
    """

    sequence: str
    states: list[str]


def _recurrent(site: Site) -> str | list[str]:
    layer = site.operation
    run = _run(site, layer, "", site.arguments.get("initial_state"))
    result = _in_order(site, run.sequence, layer.go_backwards) if layer.return_sequences else run.states[0]
    return [result, *run.states] if layer.return_state else result


def _bidirectional(site: Site) -> str | list[str]:
    both = site.operation
    if site.arguments.get("initial_state") is not None:
        site.refuse("initial_state", "Call two layers, one with go_backwards=True, and merge their results.")
    runs = [_run(site, getattr(both, name), f"{name}.", None) for name in ("forward_layer", "backward_layer")]
    results = [run.states[0] for run in runs]
    if both.return_sequences:
        # Keras turns the second one round: the order in which it computes, not that of time.
        turned = both.forward_layer.go_backwards, not both.backward_layer.go_backwards
        results = [_in_order(site, run.sequence, is_turned) for run, is_turned in zip(runs, turned, strict=True)]
    if both.merge_mode is not None:
        results = [_merged(site, results)]
    states = [state for run in runs for state in run.states] if both.return_state else []
    return [*results, *states]


def _merged(site: Site, results: Sequence[str]) -> str:
    mode = site.operation.merge_mode
    if mode == "concat":
        return site.add("Concat", *results, axis=-1)
    merged = site.add("Mul" if mode == "mul" else "Add", *results)
    return site.add("Mul", merged, site.constant(np.float32(0.5), "half")) if mode == "ave" else merged


def _in_order(site: Site, sequence: str, is_turned: bool) -> str:
    """A sequence, or the same from the last to the first."""
    if not is_turned:
        return sequence
    ends = {"starts": -1, "stops": int(np.iinfo(np.int64).min), "axes": 1, "steps": -1}
    return site.add("Slice", sequence, *(site.int_constant([number], part) for part, number in ends.items()))


def _run(site: Site, layer: Any, prefix: str, initial_state: Any) -> _Run:
    """One layer over the sequences of the call; `prefix` is what the names of its weights begin with."""
    kind = _KINDS.get(type(layer))
    if kind is None:
        site.refuse(f"a layer of class {type(layer).__name__} inside", f"Supported: {[c.__name__ for c in _KINDS]}")
    if layer.stateful:
        site.refuse("stateful=True", "Use return_state=True, and give the states to the next call as initial_state.")
    order = functools.partial(_operator_order, gates=kind.gates)
    x = site.builder.transpose(site.x, (1, 0, 2))
    inputs = [x, site.weight(f"{prefix}cell.kernel", order), site.weight(f"{prefix}cell.recurrent_kernel", order)]
    inputs.append(_bias(site, layer, f"{prefix}cell.bias", kind))
    # No lengths: all sequences are whole.
    inputs += ["", *_initial(site, initial_state)]
    attributes: dict[str, Any] = {
        "hidden_size": layer.units,
        "direction": "reverse" if layer.go_backwards else "forward",
    }
    if kind.op_type == "GRU":
        attributes["linear_before_reset"] = int(layer.cell.reset_after)
    while not inputs[-1]:
        inputs.pop()
    y, *states = site.builder.add_many(
        kind.op_type, inputs, f"{site.name}/{prefix}{kind.op_type.lower()}", 3 if kind.op_type == "LSTM" else 2,
        **attributes, **_activations(site, layer, kind),
    )  # fmt: skip
    sequence = site.add("Squeeze", y, site.int_constant([1], "axes"))
    states = [site.add("Squeeze", state, site.int_constant([0], "axes")) for state in states]
    return _Run(site.builder.transpose(sequence, (1, 0, 2)), states)


def _operator_order(kernel: Array, gates: Sequence[int]) -> Array:
    """(in, gates · units) to (1, gates · units, in), the gates in another order."""
    parts = np.split(kernel, len(gates), axis=1)
    return np.concatenate([parts[gate] for gate in gates], axis=1).T[None]


def _bias(site: Site, layer: Any, key: str, kind: _Kind) -> str:
    """The two biases of the operator, shape (1, 2 · gates · units); Keras has one, of GRU with `reset_after` both."""
    if layer.cell.bias is None or key in site.quantizers:
        # A quantizer that nothing has asked for is refused.
        return ""

    def both(bias: Array) -> Array:
        pair = bias if bias.ndim > 1 else np.stack([bias, np.zeros_like(bias)])
        return np.concatenate([_operator_order(row[None], kind.gates).reshape(1, -1) for row in pair], axis=1)

    return site.weight(key, both)


def _initial(site: Site, states: Any) -> list[str]:
    flat = [] if states is None else keras.tree.flatten(states)
    return [site.add("Unsqueeze", site.operand(state, "float32"), site.int_constant([0], "axes")) for state in flat]


def _activations(site: Site, layer: Any, kind: _Kind) -> dict[str, Any]:
    names, parameters = [], []
    for attribute in kind.activations:
        function = getattr(layer.cell, attribute)
        found = next(
            (item for name, item in _ACTIVATIONS.items() if function is getattr(keras.activations, name)), None
        )
        if found is None:
            site.refuse(
                f"{attribute}={getattr(function, '__name__', function)!r}", f"Supported: {sorted(_ACTIVATIONS)}."
            )
        names.append(found[0])
        if found[1] is not None:
            parameters.append(found[1])
    if not parameters:
        return {"activations": names}
    # They are consumed in the order of the functions that have any.
    alphas, betas = zip(*parameters, strict=True)
    return {"activations": names, "activation_alpha": alphas, "activation_beta": betas}


RECURRENT: dict[type, Translator] = {**dict.fromkeys(_KINDS, _recurrent), layers.Bidirectional: _bidirectional}
