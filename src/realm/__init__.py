"""The Realm of Training: a hero (a model) learns quests (data) in battles (training runs), seen live."""

__version__ = "0.1.0"
