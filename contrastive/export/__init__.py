"""A checkpoint in somebody else's format, which is proved by embeddings before it is kept. One file a format.

An exporter (see `exporter.py`) writes a folder from a `Source`; `parity.py` has it read by a fresh process, in which
only the target's library is imported (`readers/`), and compares what both make of a `Probe`.
"""
