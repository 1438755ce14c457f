"""Generators: sources of `TrainingSample`s."""

from afs.generators.base import BaseGenerator, GenerationResult, TrainingSample

__all__ = ["BaseGenerator", "GenerationResult", "TrainingSample"]
