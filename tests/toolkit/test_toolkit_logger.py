# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The toolkit's logger and `set_log_folder`."""

import logging

import pytest
import torch

import mct_quantizers.logger
import model_compression_toolkit as mct


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "logs"
    for logger in (mct.logger.Logger, mct_quantizers.logger.Logger):
        logger.shutdown()
        logger.set_logger_level(logging.NOTSET)


def test_each_package_logs_into_a_folder_of_its_own(folder):
    mct.set_log_folder(folder, logging.WARNING)
    mct.logger.Logger.warning("of the toolkit")
    mct_quantizers.logger.Logger.warning("of the runtime")
    texts = {path.parent.parent.name: path.read_text() for path in folder.parent.glob("*/*/mct_log.log")}
    assert texts == {"logs": "of the toolkit\n", "logs_MCTQ": "of the runtime\n"}
    assert mct.logger.Logger.get_logger().name == "Model Compression Toolkit"


def test_what_the_toolkit_warns_of_is_in_the_file(folder):
    class Untraceable(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(x) if x.sum() > -1e9 else x

    mct.set_log_folder(folder)
    mct.quantize(Untraceable().eval(), torch.rand(8, 4))
    (path,) = folder.glob("*/mct_log.log")
    assert "module by module" in path.read_text()
