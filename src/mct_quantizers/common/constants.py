# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Words that stand in saved models and configurations, numbers that the interface fixes, and what is installed."""

import importlib.util
import sys


def _is_installed(package: str) -> bool:
    """Whether `package` can be found; it is not imported."""
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        # A finder may refuse a package instead of not knowing it.
        return False


# Frameworks.
TENSORFLOW = "tensorflow"
TORCH = "torch"
ONNX = "onnx"
ONNXRUNTIME = "onnxruntime"
ONNXRUNTIME_EXTENSIONS = "onnxruntime_extensions"
FOUND_TF = _is_installed(TENSORFLOW)
FOUND_TORCH = _is_installed(TORCH)
FOUND_KERAS = _is_installed("keras")
FOUND_ONNX = _is_installed(ONNX)
FOUND_ONNXRUNTIME = _is_installed(ONNXRUNTIME)
FOUND_ONNXRUNTIME_EXTENSIONS = _is_installed(ONNXRUNTIME_EXTENSIONS)

# Keys of configurations and saved models.
IS_WEIGHTS = "is_weights"
IS_ACTIVATIONS = "is_activations"
WEIGHTS_QUANTIZERS = "weights_quantizer"
WEIGHTS_VALUES = "weights_value"
OP_CALL_ARGS = "op_call_args"
OP_CALL_KWARGS = "op_call_kwargs"
IS_INPUT_AS_LIST = "is_inputs_as_list"
WEIGHTS_QUANTIZATION_METHOD = "weights_quantization_method"
WEIGHTS_N_BITS = "weights_n_bits"
WEIGHTS_QUANTIZATION_PARAMS = "weights_quantization_params"
ENABLE_WEIGHTS_QUANTIZATION = "enable_weights_quantization"
WEIGHTS_CHANNELS_AXIS = "weights_channels_axis"
WEIGHTS_PER_CHANNEL_THRESHOLD = "weights_per_channel_threshold"
MIN_THRESHOLD = "min_threshold"
ACTIVATION_QUANTIZATION_METHOD = "activation_quantization_method"
ACTIVATION_N_BITS = "activation_n_bits"
ACTIVATION_QUANTIZATION_PARAMS = "activation_quantization_params"
ENABLE_ACTIVATION_QUANTIZATION = "enable_activation_quantization"

# Attributes that `mark_quantizer` sets.
QUANTIZATION_TARGET = "quantization_target"
QUANTIZATION_METHOD = "quantization_method"
QUANTIZER_ID = "identifier"

# Attributes of holders.
ACTIVATION_QUANTIZERS = "activation_quantizers"
ACTIVATION_HOLDER_QUANTIZER = "activation_holder_quantizer"

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

# Names inside wrappers and their files.
LAYER = "layer"
STEPS = "optimizer_step"
TRAINING = "training"
POSITIONAL_WEIGHT = "positional_weight"
QUANTIZED_POSITIONAL_WEIGHT = "quantized_positional_weight"
ONNX_CUSTOM_OP_DOMAIN = "mct_quantizers"

# Metadata.
FRAMEWORK_VERSION = "framework_version"
PYTHON_VERSION = "python_version"
MCTQ_VERSION = "mctq_version"
ONNX_VERSION = "onnx_version"

EPS = 1e-8
LUT_VALUES_BITWIDTH = 8
MIN_NUM_BITS = 1
MAX_NUM_BITS = 16
