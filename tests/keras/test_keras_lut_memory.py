# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a compiled lookup table keeps; `benchmarks/lut_memory.py` measures every engine from outside."""

import keras
import numpy as np
import pytest

from mct_quantizers import keras_quantizers

pytestmark = pytest.mark.keras


@pytest.mark.skipif(keras.config.backend() != "jax", reason="only JAX tells what a compiled function allocates")
@pytest.mark.parametrize("num_levels", [4, 64, 256])
def test_a_compiled_call_needs_less_than_one_tensor_besides_its_output(num_levels):
    import jax

    levels = np.linspace(-128, 127, num_levels).astype(int).tolist()
    with pytest.warns(UserWarning, match="a uniform grid does the same"):
        quantizer = keras_quantizers.ActivationLutPOTInferableQuantizer(8, levels, [1.0], True)
    x = jax.ShapeDtypeStruct((1024, 1024), "float32")
    memory = jax.jit(quantizer).lower(x).compile().memory_analysis()
    assert memory.output_size_in_bytes == 4 * 1024 * 1024
    assert memory.temp_size_in_bytes < memory.output_size_in_bytes
