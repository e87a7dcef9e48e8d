"""What the encoder and the generator import: once, in the process that they are forked from.

Nothing here starts a thread, connects, or touches a GPU (`workers.runtime.stack.forked`).
"""

from workers.runtime.loading import kept_objects

with kept_objects():
    import transformers.masking_utils
    import transformers.modeling_layers  # noqa: F401

    import workers.cli.app
    import workers.encode.worker
    import workers.generate.worker
    import workers.kafka.clients
    import workers.kafka.producer
    import workers.observe.tracing
    import workers.runtime.loop  # noqa: F401
