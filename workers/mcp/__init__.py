"""Model Context Protocol: the memory as tools of an assistant, by the official package."""
