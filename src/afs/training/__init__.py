"""Refinery steps that work on training rows."""
