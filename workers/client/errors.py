"""The error of the client library."""


class ClientError(RuntimeError):
    """The stack did not do in time what was asked of it. The text says what to check."""
