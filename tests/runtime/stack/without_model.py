"""An encoder in a process of its own, whose numbers come from no model."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from pipeline.ingest.encoding import FactEncoding
from tests.decide.samples import encoding
from workers.encode.worker import EncoderWorker
from workers.kafka.config import KafkaSettings
from workers.observe import log
from workers.runtime import loop


class WithoutModel(EncoderWorker):
    def load(self, alone: bool) -> None:
        self._alone = alone

        def encode_each(texts: Sequence[str], stopped: Callable[[], bool]) -> list[FactEncoding]:
            return [encoding(text) for text in texts]

        self._encoder = SimpleNamespace(  # type: ignore[assignment]
            encode_each=encode_each, encoder_id="e", frequencies=SimpleNamespace(max_nll=20.0)
        )


def main() -> int:
    log.setup("encoder")
    settings = KafkaSettings.from_env()
    data = Path(os.environ["FACTSTREAM_DATA"])
    return loop.run(WithoutModel(settings, "none"), settings, data, poll_ms=50, max_records=10)


if __name__ == "__main__":
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()}\n")
    sys.exit(main())
