"""The memory bank: state only, a fold over decisions, with the indexes that find a memory."""
