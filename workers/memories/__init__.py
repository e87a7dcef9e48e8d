"""Memories as other memory systems know them: ids that last, entities, filters."""
