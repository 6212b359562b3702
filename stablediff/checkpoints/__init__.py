"""Bytes on disk <-> models: finding, recognising, reading and writing checkpoints."""
