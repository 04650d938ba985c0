from model_compression_toolkit import quantizers_infrastructure as qi
class MyActivationsTrainingQuantizer(BaseKerasTrainableQuantizer):
    def __init__(self, quantization_config: NodeActivationQuantizationConfig):
        super(MyActivationsTrainingQuantizer, self).__init__(quantization_config,
                                                 qi.QuantizationTarget.Activation,
                                                 [qi.QuantizationMethod.SYMMETRIC])
    def __call__(self, inputs):
        quantized = inputs.round()
        return quantized

    def convert2inferable(self):
        return MyActivationsInferableQuantizer()
