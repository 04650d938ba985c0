# Import TensorFlow and quantizers_infrastructure
import tensorflow as tf

from model_compression_toolkit import quantizers_infrastructure as qi

# Create a weights symmetric quantizer for quantizing a kernel using 8 bits,
# quantization per-channel (the channel index is passed as channel_axis, when -1 is the last axis),
# 3 threshold (in this example, the layer's kernel outputs 3 channels, thus we're
# using 3 thresholds - threshold per channel) and the quantization is signed.
quantizer = qi.keras_inferable_quantizers.WeightsSymmetricInferableQuantizer(num_bits=8,
                                                                             threshold=[2, 4, 1],
                                                                             per_channel=True,
                                                                             channel_axis=-1,
                                                                             signed=True)

# Initialize a random input qo quantize
input_tensor = tf.random.uniform(shape=(1, 3, 3, 3), minval=-100, maxval=100)
# Quantize tensor
quantized_tensor = quantizer(input_tensor)
print(quantized_tensor)
assert tf.reduce_max(quantized_tensor) < 4, 'Quantized values should not contain values greater than maximal threshold'
assert tf.reduce_min(quantized_tensor) >= -4, 'Quantized values should not contain values lower than minimal threshold'


