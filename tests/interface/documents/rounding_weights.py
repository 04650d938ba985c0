from model_compression_toolkit import quantizers_infrastructure as qi
class MyWeightsTrainingQuantizer(BaseKerasTrainableQuantizer):
    def __init__(self, quantization_config: NodeWeightsQuantizationConfig):
        super(MyWeightsTrainingQuantizer, self).__init__(quantization_config,
                                                 qi.QuantizationTarget.Weights,
                                                 [qi.QuantizationMethod.SYMMETRIC])
    def __call__(self, inputs):
        quantized = inputs.round()
        return quantized

    def convert2inferable(self):
        return MyWeightsInferableQuantizer()
