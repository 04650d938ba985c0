# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of translations to ONNX share: models with random weights, and ONNX Runtime to compare them with."""

import functools

import keras
import numpy as np
import onnx
import onnxruntime
from keras import ops

from mct_quantizers import KerasQuantizationWrapper
from mct_quantizers.keras.quantizers import WeightsSymmetricInferableQuantizer, WeightsUniformInferableQuantizer
from model_compression_toolkit.exporter.keras.onnx_export import export_onnx
from model_compression_toolkit.exporter.keras.onnx_parity import compare_onnx


def randomized(model):
    """The model with weights that are all different from their initial values, which hide what is left out."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(random.uniform(0.2, 0.8, variable.shape).astype(np.float32) * random.choice([-1, 1]))
        if "variance" in variable.name:
            variable.assign(random.uniform(0.5, 2.0, variable.shape).astype(np.float32))
    return model


def samples(model, batch_size=3):
    random = np.random.default_rng(1)
    result = []
    for value in model.inputs:
        shape = [batch_size if axis == 0 else (7 if size is None else size) for axis, size in enumerate(value.shape)]
        is_float = keras.backend.is_float_dtype(value.dtype)
        array = random.normal(size=shape) * 2 if is_float else random.integers(0, 5, shape)
        result.append(array.astype(value.dtype))
    return result


def run(proto, arrays):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def assert_same_outputs(model, tolerance=2e-5, arrays=None):
    """The exported model, whose batch size is open, computes what the model computes."""
    proto, arrays = export_onnx(model), samples(model) if arrays is None else arrays
    results = model(arrays if arrays[1:] else arrays[0], training=False)
    expected = [ops.convert_to_numpy(item) for item in keras.tree.flatten(results)]
    for theirs, ours in zip(run(proto, arrays), expected, strict=True):
        assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
        scale = max(1.0, float(np.abs(ours).max()))
        np.testing.assert_allclose(theirs, ours, rtol=tolerance, atol=tolerance * scale)
    return proto


def spread(layer):
    """A built layer with normally distributed weights, each of its own."""
    random = np.random.default_rng(0)
    for variable in layer.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(random.normal(size=variable.shape).astype(np.float32) / 4)
    return layer


def quantized(layer, axes, num_bits=4, is_symmetric=False, **arguments):
    """A built layer, its weights quantized per channel along the axes that are given by path; None is per tensor."""
    quantizers = {}
    for key, given in axes.items():
        values = ops.convert_to_numpy(functools.reduce(getattr, key.split("."), layer))
        axis = None if given is None else given % values.ndim
        others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis)
        low, high = (np.atleast_1d(f(values, axis=others)).tolist() for f in (np.min, np.max))
        ends = (np.maximum(np.abs(low), np.abs(high)).tolist(),) if is_symmetric else (low, high)
        cls = WeightsSymmetricInferableQuantizer if is_symmetric else WeightsUniformInferableQuantizer
        quantizers[key] = cls(num_bits, *ends, axis is not None, axis)
    return KerasQuantizationWrapper(layer, quantizers, name=layer.name, **arguments)


def compared(model, path, count=6):
    """The report of an exported file over random samples."""
    proto = export_onnx(model)
    onnx.save(proto, path)
    report = compare_onnx(model, path, [tuple(samples(model, count))])
    assert report.passed, str(report)
    assert report.replayed_output_difference < 1e-5
    assert report.not_compared == ()
    return report, {tensor.name: tensor for tensor in proto.graph.initializer}
