"""What the encoder and the generator import and load: once, in the process that they are forked from.

Nothing here starts a thread, connects, or touches a GPU (`workers.runtime.stack.forked`).
"""

import os

from workers.runtime.imports import light_transformers
from workers.runtime.loading import keep_encoder, kept_objects

with kept_objects(), light_transformers():
    if model := os.environ.get("FACTSTREAM_MODEL"):
        keep_encoder(model, os.environ.get("FACTSTREAM_DEVICE", "auto"))

    import workers.cli.app
    import workers.encode.worker
    import workers.generate.worker
    import workers.kafka.clients
    import workers.kafka.producer
    import workers.observe.tracing
    import workers.runtime.loop  # noqa: F401
