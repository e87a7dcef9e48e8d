"""The generator worker: requests in, answers out, from a live replica of the memory."""
