"""Memories as other memory systems know them: ids that last, entities, filters; for mem0's format and MCP."""
