"""The refinery: sources in, clean portable JSONL out. Never imports `realm`, never imports torch at start."""

__version__ = "0.1.0"
