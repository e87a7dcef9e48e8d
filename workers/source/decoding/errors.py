"""The failure of a source that may pass by itself."""


class RegistryDown(RuntimeError):
    """The schema registry gives no usable answer. To be tried again later; the text says what to check."""
