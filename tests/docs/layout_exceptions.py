"""Where the repository does not yet have the shape that test_layout.py asks for, and why."""

IMPORTS: dict[str, str] = {}

KAFKA: dict[str, str] = {}

SUMMARIES: dict[str, str] = {}

LONG_FILES: dict[str, str] = {}

LONG_FOLDERS: dict[str, str] = {}

LONG_NAMES: dict[str, str] = {}
