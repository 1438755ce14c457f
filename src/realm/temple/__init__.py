"""The Temple: the data gate (`cleric`) and the blessing of quests (`blessing`)."""
