"""Training samples from a 65816 assembly code base (see `training_generator`)."""
