# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Words that stand in saved models and configurations, and numbers that the interface fixes."""

# Keys of configurations and saved models.
WEIGHTS_QUANTIZERS = "weights_quantizer"
WEIGHTS_VALUES = "weights_value"
OP_CALL_ARGS = "op_call_args"
OP_CALL_KWARGS = "op_call_kwargs"
IS_INPUT_AS_LIST = "is_inputs_as_list"
ACTIVATION_HOLDER_QUANTIZER = "activation_holder_quantizer"

# Attributes that `mark_quantizer` sets.
QUANTIZATION_TARGET = "quantization_target"
QUANTIZATION_METHOD = "quantization_method"
QUANTIZER_ID = "identifier"

# Constructor arguments of quantizers.
NUM_BITS = "num_bits"
SIGNED = "signed"
THRESHOLD = "threshold"
PER_CHANNEL = "per_channel"
MIN_RANGE = "min_range"
MAX_RANGE = "max_range"
CHANNEL_AXIS = "channel_axis"
INPUT_RANK = "input_rank"
LUT_VALUES = "lut_values"

LAYER = "layer"
TRAINING = "training"
POSITIONAL_WEIGHT = "positional_weight"
QUANTIZED_POSITIONAL_WEIGHT = "quantized_positional_weight"
FRAMEWORK_VERSION = "framework_version"
PYTHON_VERSION = "python_version"
MCTQ_VERSION = "mctq_version"
ONNX_VERSION = "onnx_version"

EPS = 1e-8
LUT_VALUES_BITWIDTH = 8
MIN_NUM_BITS = 1
MAX_NUM_BITS = 16
