"""The Arena: the hero loop (no torch) and the battle child it starts."""
