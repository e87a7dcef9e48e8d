"""The client library: publish, ask, watch."""
