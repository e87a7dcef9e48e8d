"""Log lines as text and as JSON."""

import json
import logging

import pytest


def test_message_cannot_forge_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    from workers.observe import log

    logger = logging.getLogger("factstream")
    before = logger.handlers, logger.level, logger.propagate
    try:
        for log_format in ("text", "json"):
            log.setup("encoder", log_format)
            log.line("batch", text="a\n2026 writer batch \ud800\x1b[2J", count=3, share=0.25, level="mine")
    finally:
        logger.handlers, logger.level, logger.propagate = before
    text, as_json = capsys.readouterr().err.splitlines()
    assert (
        "encoder batch text=" in text
        and "\x1b" not in text
        and text.endswith("count=3 share=0.25 level=mine")
    )
    parsed = json.loads(as_json)
    assert parsed["event"] == "batch" and parsed["count"] == 3 and parsed["text"].startswith("a\n2026")


def test_what_a_closing_client_gives_up_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    from workers.observe import log

    class Cancelled(Exception):
        pass

    loggers = [logging.getLogger(name) for name in ("factstream", "kafka", "opentelemetry", "mcp")]
    before = [(one.handlers, one.level, one.propagate) for one in loggers]
    try:
        log.setup("mcp")
        logging.getLogger("kafka").error("refresh: failed %s", Cancelled())
        logging.getLogger("kafka").error("refresh: failed %s", OSError("no route"))
    finally:
        for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
            one.handlers, one.level, one.propagate = handlers, level, propagate
    (line,) = capsys.readouterr().err.splitlines()
    assert "no route" in line
