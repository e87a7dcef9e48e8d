"""The process runtime: the poll loop that workers share, the supervisor and the embedded broker."""
