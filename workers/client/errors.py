"""The errors of the client library."""


class ClientError(RuntimeError):
    """The stack did not answer or decide in time. The text says what to check."""


class Busy(ClientError):
    """A refusal because too many requests wait already. Try again."""
