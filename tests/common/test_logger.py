# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The public logger: where lines go, what raises, what it leaves alone."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mct_quantizers.logger import LOGGER_NAME, Logger, set_log_folder


@pytest.fixture(autouse=True)
def fresh_logger():
    """The logger as an import leaves it, before and after."""
    logger = Logger.get_logger()
    level = logger.level
    yield logger
    Logger.shutdown()
    logger.setLevel(level)


def log_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("mct_log.log"))


def test_the_logger_has_its_public_name_and_levels():
    assert LOGGER_NAME == "MCT Quantizers"
    assert Logger.get_logger() is logging.getLogger("MCT Quantizers")
    for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        assert getattr(Logger, name) == getattr(logging, name)
    assert Logger.LOG_PATH is None


def test_importing_the_logger_installs_nothing_and_sets_no_level():
    code = (
        "import logging, mct_quantizers.logger as module; logger = module.Logger.get_logger(); "
        "print(logger.handlers, logging.getLogger().handlers, logger.level, logger.propagate)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert process.stdout.strip() == "[] [] 0 True"


@pytest.mark.parametrize("name", ["debug", "info", "warning"])
def test_a_message_is_logged_at_its_level_from_where_it_was_said(name, caplog):
    Logger.set_logger_level(logging.DEBUG)
    assert getattr(Logger, name)("a 100% plain message") is None
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == (LOGGER_NAME, name.upper(), "a 100% plain message")
    assert record.filename == Path(__file__).name


@pytest.mark.parametrize(("name", "level"), [("error", "ERROR"), ("critical", "CRITICAL"), ("exception", "ERROR")])
def test_what_is_wrong_is_logged_and_raised(name, level, caplog):
    with pytest.raises(ValueError, match=r"^broken$"):
        getattr(Logger, name)("broken")
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), record.filename) == (level, "broken", Path(__file__).name)


def test_an_exception_is_logged_with_the_one_that_is_being_handled(caplog):
    with pytest.raises(ValueError, match="second") as caught:
        try:
            raise KeyError("first")
        except KeyError:
            Logger.exception("second")
    assert isinstance(caught.value.__context__, KeyError)
    assert caplog.records[0].exc_info[0] is KeyError


def test_the_level_of_the_logger_decides_what_is_logged(caplog):
    Logger.set_logger_level(logging.WARNING)
    Logger.info("quiet")
    Logger.warning("loud")
    Logger.set_logger_level()
    Logger.info("heard")
    assert [record.getMessage() for record in caplog.records] == ["loud", "heard"]


def test_a_log_file_is_made_and_printed_and_gets_every_line(tmp_path, capsys):
    Logger.set_log_file(tmp_path / "new" / "folder")
    (path,) = log_files(tmp_path)
    assert re.fullmatch(r"logs_\d{8}_\d{6}", path.parent.name)
    assert path.parent.parent == tmp_path / "new" / "folder"
    assert str(path) in capsys.readouterr().out
    assert Path(Logger.LOG_PATH) == path.parent
    Logger.set_logger_level(logging.DEBUG)
    Logger.debug("größer")
    Logger.shutdown()
    assert path.read_text(encoding="utf-8") == "größer\n"


def test_without_a_folder_the_environment_tells_and_then_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG_PATH", str(tmp_path / "told"))
    Logger.set_log_file()
    assert len(log_files(tmp_path / "told")) == len(log_files(tmp_path)) == 1
    monkeypatch.delenv("LOG_PATH")
    Logger.set_log_file()
    assert len(log_files(tmp_path)) == 2


def test_the_same_file_gets_no_line_twice(tmp_path, monkeypatch):
    from mct_quantizers import logger as module

    class OneSecond:
        @staticmethod
        def now():
            return OneSecond()

        def strftime(self, format):
            return "logs_01012026_000000"

    monkeypatch.setattr(module, "datetime", OneSecond)
    Logger.set_log_file(tmp_path)
    Logger.set_log_file(tmp_path)
    Logger.warning("once")
    Logger.shutdown()
    assert (tmp_path / "logs_01012026_000000" / "mct_log.log").read_text() == "once\n"


def test_a_folder_that_cannot_be_made_raises_and_changes_nothing(tmp_path, fresh_logger):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"):
        Logger.set_log_file(file)
    assert fresh_logger.handlers == []
    assert Logger.LOG_PATH is None


def test_one_stream_handler_is_enough_and_a_file_is_none(tmp_path, fresh_logger):
    Logger.set_log_file(tmp_path)
    Logger.set_stream_handler()
    Logger.set_stream_handler()
    assert [type(handler) for handler in fresh_logger.handlers] == [logging.FileHandler, logging.StreamHandler]


def test_a_log_folder_sets_stream_file_and_both_levels(tmp_path, fresh_logger, capsys):
    set_log_folder(tmp_path, logging.WARNING)
    Logger.info("quiet")
    Logger.warning("loud")
    assert [handler.level for handler in fresh_logger.handlers] == [logging.WARNING] * 2
    assert fresh_logger.level == logging.WARNING
    assert capsys.readouterr().err == "loud\n"
    Logger.shutdown()
    assert log_files(tmp_path)[0].read_text() == "loud\n"


def test_handlers_take_the_level_they_are_given(tmp_path, fresh_logger):
    set_log_folder(tmp_path)
    Logger.set_handler_level(logging.ERROR)
    assert {handler.level for handler in fresh_logger.handlers} == {logging.ERROR}
    Logger.set_handler_level()
    assert {handler.level for handler in fresh_logger.handlers} == {logging.INFO}


def test_shutdown_closes_our_handlers_and_no_others(tmp_path, fresh_logger):
    foreign = logging.FileHandler(tmp_path / "foreign.log")
    try:
        logging.getLogger("somebody else").addHandler(foreign)
        Logger.set_log_file(tmp_path)
        (ours,) = fresh_logger.handlers
        Logger.shutdown()
        assert fresh_logger.handlers == []
        assert ours.stream is None
        assert not foreign.stream.closed
        assert Logger.LOG_PATH is None
    finally:
        logging.getLogger("somebody else").removeHandler(foreign)
        foreign.close()
