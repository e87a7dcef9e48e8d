"""Where the repository does not yet have the shape that test_layout.py asks for, and why."""

IMPORTS: dict[str, str] = {}

KAFKA: dict[str, str] = {}

SUMMARIES: dict[str, str] = {
    "pipeline/fusion/answer_span.py": "to be one sentence",
    "pipeline/fusion/engine.py": "to be one sentence",
    "pipeline/fusion/fusion.py": "to be one sentence",
    "tests/fusion/test_asking.py": "to be one sentence",
    "tests/fusion/test_extraction.py": "to be one sentence",
    "tests/fusion/test_generation.py": "to be one sentence",
}

LONG_FILES: dict[str, str] = {
    "pipeline/memory_lm.py": "to be split",
    "tests/generate/test_generator.py": "to be split",
    "workers/generate/worker.py": "to be split",
}

LONG_FOLDERS: dict[str, str] = {}

LONG_NAMES: dict[str, str] = {
    "tests/fusion/test_asking.py": "names to be shortened",
    "tests/fusion/test_extraction.py": "names to be shortened",
    "tests/generate/test_generator.py": "names to be shortened",
}
