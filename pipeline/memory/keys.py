"""Index of a namespace's memories by the upstream key of what they state."""

from pipeline.memory.record import Memory


class KeyIndex:
    """Memory ids by key, oldest first."""

    def __init__(self) -> None:
        self._ids: dict[str, str | dict[str, None]] = {}  # one id for a key of one memory, as most are

    def add(self, memory: Memory) -> None:
        """Adds a memory, if it has a key."""
        if (key := memory.key) is None:
            return
        ids = self._ids.get(key)
        if ids is None:
            self._ids[key] = memory.memory_id
        elif isinstance(ids, str):
            self._ids[key] = dict.fromkeys((ids, memory.memory_id))
        else:
            ids[memory.memory_id] = None

    def remove(self, memory: Memory) -> None:
        """Removes a memory that was added."""
        if (key := memory.key) is None:
            return
        ids = self._ids[key]
        if isinstance(ids, str):
            del self._ids[key]
        else:
            del ids[memory.memory_id]
            if not ids:
                del self._ids[key]

    def get(self, key: str) -> list[str]:
        """The ids of the memories of a key."""
        ids = self._ids.get(key, ())
        return [ids] if isinstance(ids, str) else list(ids)
