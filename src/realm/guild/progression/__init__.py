"""Titles, achievements, debuffs and combat results: what the ledger's facts are worth telling.

All of it is drawn from stored facts by pure functions and stored nowhere, so it can be drawn again at any time and can
never be given away twice. The rules with their numbers are in `docs/PROGRESSION.md`, printed from this code.

    python3 -m realm.guild.progression > docs/PROGRESSION.md
    python3 -m training ledger recompute

`titles.py` needs only the mastered levels; `achievements.py` reads the whole history of a campaign (`history.py`);
`debuffs.py` looks at the present weights; `combat.py` at single steps and quests.
"""
