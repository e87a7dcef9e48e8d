"""The frame of a measurement: progress, a temporary folder, and errors in one line."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.bench import report
from workers.cli.errors import report_errors


@contextmanager
def measuring() -> Iterator[tuple[report.ProgressBars, Path]]:
    """Progress bars and an empty temporary folder; errors are reported in one line."""
    with (
        report_errors(),
        report.progress_bars() as progress,
        tempfile.TemporaryDirectory(prefix="factstream-") as folder,
    ):
        yield progress, Path(folder)
