"""`factstream bench scale`."""
