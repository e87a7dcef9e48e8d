"""The parts of the supervisor: its processes, their states, and the records that the embedded broker holds at the end."""
