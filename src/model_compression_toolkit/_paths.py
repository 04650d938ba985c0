# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Module paths of the interface whose names live in another module here; see `mct_quantizers._paths`."""

from mct_quantizers import _paths

_PACKAGE = __name__.rpartition(".")[0]
_RUNTIME = "mct_quantizers"
_OLDEST = "quantizers_infrastructure"
_TRAINABLE = f"{_PACKAGE}.trainable_infrastructure"


def _paths_of(wing: str) -> dict[str, str]:
    base, classes = f"{_TRAINABLE}.{wing}.base_{wing}_quantizer", f"{_TRAINABLE}.{wing}.method_quantizers"
    activations, weights, oldest = (
        f"{place}.{wing}{suffix}"
        for place, suffix in (
            ("trainable_infrastructure", ".activation_quantizers"),
            ("qat", ".quantizer"),
            (_OLDEST, ""),
        )
    )
    homes = {activations: classes, f"{activations}.base_activation_quantizer": base, weights: classes}
    for package in (f"{activations}.ste", f"{activations}.lsq", f"{weights}.ste_rounding", f"{weights}.lsq"):
        kind = "lsq" if package.endswith("lsq") else "ste"
        homes.update({package: classes, f"{package}.symmetric_{kind}": classes, f"{package}.uniform_{kind}": classes})
    builder = f"{_PACKAGE}.qat.{wing}.quantization_builder"
    return {
        **homes,
        f"{weights}.base_{wing}_qat_weight_quantizer": base,
        f"{weights}.base_{wing}_qat_quantizer": base,
        f"{weights}.quantization_builder": builder,
        f"{weights}.quantization_dispatcher_builder": builder,
        f"{weights}.quant_utils": f"{_TRAINABLE}.{wing}.quantizer_utils",
        f"{weights}.DQA": classes,
        f"{weights}.DQA.dqa_uniform": classes,
        oldest: f"{_RUNTIME}.{wing}.quantizers",
        f"{oldest}.base_{wing}_quantizer": base,
        f"{oldest}.base_{wing.title()}_quantizer": base,
        f"{oldest}.inferable_quantizers": f"{_RUNTIME}.{wing}.quantizers",
        f"{oldest}.load_model": f"{_RUNTIME}.{wing}.load_model",
        f"{oldest}.quantize_wrapper": f"{_RUNTIME}.{wing}.quantize_wrapper",
    }


def install() -> None:
    """Make the moved paths importable."""
    _paths.add(
        {
            f"{_PACKAGE}.{path}": home
            for path, home in {
                "constants": f"{_TRAINABLE}.common.constants",
                "core.common.quantization": f"{_TRAINABLE}.common.trainable_quantizer_config",
                "core.common.quantization.node_quantization_config": f"{_TRAINABLE}.common.trainable_quantizer_config",
                "core.common.target_platform": f"{_RUNTIME}.common.quant_info",
                "core.common.target_platform.op_quantization_config": f"{_RUNTIME}.common.quant_info",
                f"{_OLDEST}.common": f"{_RUNTIME}.common.base_inferable_quantizer",
                f"{_OLDEST}.common.base_inferable_quantizer": f"{_RUNTIME}.common.base_inferable_quantizer",
                f"{_OLDEST}.common.base_trainable_quantizer": f"{_TRAINABLE}.common.base_trainable_quantizer",
                f"{_OLDEST}.common.trainable_quantizer_config": f"{_TRAINABLE}.common.trainable_quantizer_config",
                **_paths_of("keras"),
                **_paths_of("pytorch"),
            }.items()
        }
    )
