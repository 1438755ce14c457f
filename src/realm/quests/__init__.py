"""Quests: the inbox, the board (queue), and quests made from skills."""
