"""The core as a library: backbone, encoding, memory bank, retrieval, reading, generation, store."""
