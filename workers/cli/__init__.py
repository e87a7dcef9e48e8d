"""The command line: `main` is the entry point of `factstream`."""

from workers.cli.app import main

__all__ = ["main"]
