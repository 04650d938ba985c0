# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The networks behind the files in `saved_models`, and what wrote these.

`python tests/interface/saved_networks.py <folder>` writes a set of files; a release adds a folder of its own and never
changes an old one. KERAS_BACKEND=tensorflow wrote the .keras files.
"""

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20260
SHAPE = (2, 6, 6, 3)
"""Images, channels last."""


def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=SHAPE).astype(np.float32)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype(np.float32)


ACTIVATION = {"num_bits": 8, "min_range": [-1.3], "max_range": [2.9]}
UNSIGNED = {"num_bits": 4, "threshold": [4.0], "signed": False}
TABLE = {"num_bits": 3, "lut_values": [-100, -52, -13, 0, 9, 40, 90], "threshold": [1.0]}


FACTOR = np.linspace(0.5, 1.5, 4, dtype=np.float32)
"""A constant that a function multiplies by: a positional weight."""
FACTOR_GRID = {"num_bits": 5, "min_range": [-0.2], "max_range": [1.6], "per_channel": False}


def torch_network(quantized: bool = True) -> Any:
    """Convolution, positional weight, depthwise convolution, table, every kind of holder."""
    import torch
    from torch import nn

    from mct_quantizers import (
        PytorchActivationQuantizationHolder,
        PytorchFLNActivationQuantizationHolder,
        PytorchPreservingActivationQuantizationHolder,
        PytorchQuantizationWrapper,
        pytorch_quantizers,
    )

    conv, depthwise, dense = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 2, groups=4), nn.Linear(36, 5)
    with torch.no_grad():
        for layer in (conv, depthwise, dense):
            layer.weight.copy_(torch.from_numpy(weight(*layer.weight.shape)))
            layer.bias.copy_(torch.from_numpy(weight(*layer.bias.shape)))
    scale = PytorchQuantizationWrapper(
        torch.mul,
        {1: pytorch_quantizers.WeightsUniformInferableQuantizer(**FACTOR_GRID)},
        {1: torch.from_numpy(FACTOR).view(4, 1, 1)},
    )
    layers: list[nn.Module] = [
        PytorchActivationQuantizationHolder(pytorch_quantizers.ActivationUniformInferableQuantizer(**ACTIVATION)),
        PytorchQuantizationWrapper(
            conv,
            {"weight": pytorch_quantizers.WeightsSymmetricInferableQuantizer(4, [1.1, 0.7, 0.9, 1.3], True, 0)},
        ),
        nn.ReLU(),
        PytorchFLNActivationQuantizationHolder(pytorch_quantizers.ActivationPOTInferableQuantizer(**UNSIGNED)),
        scale,
        PytorchQuantizationWrapper(
            depthwise,
            {
                "weight": pytorch_quantizers.WeightsPOTInferableQuantizer(2, [1.0, 0.5, 1.0, 2.0], True, 0),
                "bias": pytorch_quantizers.WeightsSymmetricInferableQuantizer(16, 2.0, False),
            },
        ),
        PytorchPreservingActivationQuantizationHolder(
            pytorch_quantizers.ActivationSymmetricInferableQuantizer(6, [3.3], True), quantization_bypass=True
        ),
        nn.Flatten(),
        PytorchQuantizationWrapper(
            dense, {"weight": pytorch_quantizers.WeightsLUTSymmetricInferableQuantizer(**TABLE, per_channel=False)}
        ),
    ]
    if not quantized:
        # The architecture: what has weights as it was, identities for holders, the wrapper of a function.
        layers = [_without_quantizers(layer) for layer in layers]
    return nn.Sequential(*layers).eval()


def _without_quantizers(layer: Any) -> Any:
    from torch import nn

    if isinstance(getattr(layer, "layer", None), nn.Module):
        inner = layer.layer
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(inner, name, nn.Parameter(0 * parameter))
        return inner
    return nn.Identity() if hasattr(layer, "activation_holder_quantizer") else layer


def keras_network() -> Any:
    """The same in Keras."""
    import keras

    from mct_quantizers import (
        KerasActivationQuantizationHolder,
        KerasFLNActivationQuantizationHolder,
        KerasPreservingActivationQuantizationHolder,
        KerasQuantizationWrapper,
        keras_quantizers,
    )
    from mct_quantizers.keras.metadata import add_metadata

    image = keras.Input(SHAPE[1:], name="image")
    x = KerasActivationQuantizationHolder(keras_quantizers.ActivationUniformInferableQuantizer(**ACTIVATION))(image)
    conv = KerasQuantizationWrapper(
        keras.layers.Conv2D(4, 3, activation="relu"),
        {"kernel": keras_quantizers.WeightsSymmetricInferableQuantizer(4, [1.1, 0.7, 0.9, 1.3], True, -1)},
    )
    x = conv(x)
    x = KerasFLNActivationQuantizationHolder(keras_quantizers.ActivationPOTInferableQuantizer(**UNSIGNED))(x)
    x = KerasQuantizationWrapper(
        keras.ops.multiply,
        {1: keras_quantizers.WeightsUniformInferableQuantizer(**FACTOR_GRID)},
        {1: FACTOR},
    )(x)
    depthwise = KerasQuantizationWrapper(
        keras.layers.DepthwiseConv2D(2),
        {
            "kernel": keras_quantizers.WeightsPOTInferableQuantizer(2, [1.0, 0.5, 1.0, 2.0], True, -2),
            "bias": keras_quantizers.WeightsSymmetricInferableQuantizer(16, 2.0, False),
        },
    )
    x = depthwise(x)
    x = KerasPreservingActivationQuantizationHolder(
        keras_quantizers.ActivationSymmetricInferableQuantizer(6, [3.3], True), quantization_bypass=True
    )(x)
    x = keras.layers.Flatten()(x)
    dense = KerasQuantizationWrapper(
        keras.layers.Dense(5),
        {"kernel": keras_quantizers.WeightsLUTSymmetricInferableQuantizer(**TABLE, per_channel=False)},
    )
    model = keras.Model(image, dense(x))
    for wrapper in (conv, depthwise, dense):
        wrapper.layer.set_weights([weight(*value.shape) for value in wrapper.layer.get_weights()])
    return add_metadata(model, {"made_by": "saved_networks.py", "layers": [3, {"tables": 1}]})


def float_network() -> Any:
    """A float network for the files of the toolkit."""
    import torch
    from torch import nn

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(weight(*parameter.shape)))
    return network.eval()


def channels_first(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def write(folder: Path) -> None:
    """Write every kind of file, and what the models in them compute."""
    import torch

    import model_compression_toolkit as mct
    from mct_quantizers import pytorch_save_quantized_model
    from mct_quantizers.pytorch.metadata import add_metadata

    folder.mkdir(parents=True)
    x, first = images(), channels_first(images())
    outputs = {"image": x}
    with torch.no_grad():
        runtime = add_metadata(torch_network(), {"made_by": "saved_networks.py"})
        pytorch_save_quantized_model(runtime, folder / "runtime.safetensors")
        outputs["runtime_safetensors"] = runtime(first).numpy()
        frozen = mct.quantize(float_network(), [first], mct.QuantizationConfig.from_bits("w4a8", first_last_bits=8))
        for suffix in ("safetensors", "onnx"):
            mct.export(frozen, folder / f"frozen.{suffix}", [first], quiet=True)
        outputs["frozen"] = frozen(first).numpy()
    network = keras_network()
    network.save(folder / "runtime.keras")
    _compress(folder / "runtime.keras")
    outputs["runtime_keras"] = network.predict(x, verbose=0)
    np.savez_compressed(folder / "outputs.npz", **outputs)


def _compress(archive: Path) -> None:
    """Keras stores its parts as they are, and HDF5 leaves much room between a few small arrays."""
    with zipfile.ZipFile(archive) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
