"""The parts of the supervisor: processes, their states, and what they have not read."""
