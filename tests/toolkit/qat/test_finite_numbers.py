# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that are not finite are told by the name of the tensor, where they arise."""

import re

import numpy as np
import pytest

import model_compression_toolkit as mct

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


def prepared():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(32, 6)
    return model, x, mct.prepare_qat(model, x)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("layer", "quantizer", "name"), [
    ("2", "weight_quantizer", "2.weight"), ("_1_activation_holder_quantizer", "activation_holder_quantizer", "relu"),
])  # fmt: skip
def test_finalizing_names_the_scale_that_is_not_finite(layer, quantizer, name, value):
    _, _, model = prepared()
    trained = model.get_submodule(f"{layer}.{quantizer}")
    trained.scale.mul_(value)
    expected = next(tensor.name for tensor in mct.plan_of(model).quantized() if name in (tensor.name, "relu"))
    with pytest.raises(ValueError, match="`scale` that is not finite") as error:
        mct.finalize(model)
    assert re.search(r"Received: (nan|inf) in", str(error.value))
    if name != "relu":
        assert expected in str(error.value)
    # Also where nobody knows the name of the layer.
    with pytest.raises(ValueError, match=r"QATQuantizer|TrainableQuantizer"):
        _ = trained.params


def test_fine_tuning_stops_at_the_first_loss_that_is_not_finite_and_names_the_tensor():
    model, x, trained = prepared()
    settings = mct.FineTuning(epochs=1, batch_size=16)
    with torch.no_grad():
        trained.get_submodule("2").layer.bias[1] = float("nan")
    before = [value.clone() for value in trained.state_dict().values()]
    with pytest.raises(ValueError, match=r"loss is not finite: nan at step 1\. .*not finite: 2\.layer\.bias\."):
        mct.fine_tune(trained, model, x, settings=settings)
    for ours, theirs in zip(trained.state_dict().values(), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_fine_tuning_names_samples_and_layers():
    model, x, trained = prepared()
    settings = mct.FineTuning(epochs=1, batch_size=16)
    broken = x.clone()
    broken[:, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite: the batch"):
        mct.fine_tune(trained, model, broken, settings=settings)

    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(x + 9)

    torch.manual_seed(0)
    rooted = nn.Sequential(nn.Linear(6, 5), Root(), nn.Linear(5, 3))
    quantized = mct.prepare_qat(rooted, x, mct.QuantizationConfig(capture="modules"))
    with torch.no_grad():
        quantized.get_submodule("0").layer.bias.sub_(100)
    with pytest.raises(ValueError, match="not finite: the output of 1"):
        mct.fine_tune(quantized, model, x, settings=settings)


@pytest.mark.keras
def test_keras_names_variables_and_tensors():
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    trained = mct.prepare_qat(model, x)
    # Of the last layer: a ReLU of TensorFlow that is fused with the layer before it makes zeros of NaN.
    scale = [v for v in trained.trainable_variables if v.name.endswith("kernel_relative_scale")][-1]
    scale.assign(scale * np.nan)
    with pytest.raises(ValueError, match=r"quantizer of \S*kernel \(.*`scale` that is not finite"):
        mct.finalize(trained)
    with pytest.raises(ValueError, match=r"loss is not finite: nan in epoch 1\. .*relative_scale"):
        mct.fine_tune(trained, model, x, settings=mct.FineTuning(epochs=2, batch_size=16))
    assert not np.isfinite(np.array(scale)).any()
