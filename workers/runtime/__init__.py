"""Process runtime: the poll loop that workers share, the supervisor, the embedded broker."""
