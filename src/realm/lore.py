"""The one glossary: RPG term, its ML meaning, and the sentence a tooltip shows (realm-rules §1).

Code, API and database use the ML words; pages and the log may use the RPG words from here. A word that could mean two
things carries a qualifier (Oracle service, Oracle's Eye, Order of the Oracle).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One row: `rpg` is what the game says, `ml` what a paper would say, `rule` how the number is made."""

    rpg: str
    ml: str
    rule: str


GLOSSARY: dict[str, Term] = {
    term.rpg.lower(): term
    for term in (
        Term("Hero", "model being trained", "different heroes are different architectures and sizes"),
        Term("Campaign", "one training playthrough", "its goal is to discover this hero's level cap"),
        Term("Quest", "training data file", "dropped into inbox/ or made by a skill when the board is empty"),
        Term("Battle", "training run", "gradient descent on one quest"),
        Term("Damage", "1 / loss", "of the smoothed loss (EMA, span 50), loss floored at 1e-4; never gives experience"),
        Term("Hit", "1 / step loss", "critical above the 99th percentile of the last 500 hits of this quest"),
        Term("Clarity", "1 / perplexity", "exp(-loss) of the golden answers of the last trial"),
        Term("Level", "optimizer steps // 1000", "a clock, not a skill"),
        Term("Total level", "sum of mastered skill levels", "the number that matters"),
        Term("Skill", "curriculum domain", "a generator of problems with an exact grader"),
        Term("Trial", "held-out evaluation", "fresh problems that training never saw"),
        Term("Passives", "frozen canary suite", "everyday answers and human text, measured and never practised"),
        Term("Champion", "best checkpoint by held-out trials", "never by training loss"),
        Term("Tavern", "web dashboard", "http://localhost:8888"),
        Term("Vault", "checkpoint storage", "a folder in Hugging Face layout with a hashed manifest"),
        Term("Oracle service", "inference server", "chat with a checkpoint"),
        Term("Oracle's Eye", "token weighting by surprise", "an enhancer over any school"),
        Term("Temple", "validation system", "blesses effort into experience"),
        Term("Strain", "loss - floor", "max(0, smoothed loss - irreducible loss of the data)"),
        Term("Effort", "cumulative strain", "sum of strain over optimizer steps"),
        Term("Strain rate", "change of strain per step", "EMA (alpha 0.1) of the difference; negative is learning"),
        Term("Plastic gain", "loss before - loss after", "on the same fixed probe set before and after a quest"),
        Term("Efficiency", "plastic gain / effort", "shown per 1,000 effort"),
        Term("Experience", "blessed effort", "effort times quality, from blessings only"),
        Term("Blessing", "validated progress", "quality = ceremony x evidence, evidence is held-out only"),
        Term("Cleric", "data gate", "validates every row on its way into training"),
        Term("Guild", "skills and progression", "what the hero can do"),
        Term("Soul anchor", "checkpoint", "weights, optimizer state and the place in the data"),
        Term("Title", "rank by mastered levels", "from the total level and each skill's mastered level; never lost"),
        Term("Achievement", "milestone drawn from stored facts", "never for luck or compute; docs/PROGRESSION.md"),
        Term("Debuff", "something wrong with the present weights", "each with its rule, its evidence and its cure"),
        Term("Critical hit", "step loss among the lowest 1 %", "above the 99th percentile of the last 500 hits"),
        Term("Practice strain", "training loss - floor", "strain of the data that the hero trains on"),
        Term("Trial strain", "held-out loss - floor", "of the golden answers of a trial"),
        Term("Over-drilling", "overfitting", "trial strain rises while practice strain falls"),
        Term("Fragmented Thoughts", "forgetting", "a mastered level is in regression; cured by rehearsal"),
        Term("Ledger", "stored facts and their sums", "training ledger recompute computes all of it again"),
        Term("Mortal view", "plain ML names", "the same numbers under their ML names"),
    )
}


@dataclass(frozen=True)
class School:
    """A training method: `id` in code and database, the rest for pages."""

    id: str
    name: str
    icon: str
    motto: str
    method: str


SCHOOLS: dict[str, School] = {
    school.id: school
    for school in (
        School("scribe", "Scribe", "scroll", "Copy the master's form until it becomes your own.", "SFT"),
        School("mirror", "Mirror", "mirror", "See your flaws reflected, then correct them.", "self-correction"),
        School("judge", "Judge", "scales", "Between two paths, always choose the better.", "DPO"),
        School("champion", "Champion", "crown", "Seek the reward, master the arena.", "RLHF"),
        School("whisper", "Whisper", "ghost", "The wisdom of giants flows to those who listen.", "distillation"),
        School("oracle", "Oracle's Eye", "eye",
               "Focus where uncertainty dwells; ignore what is already known.", "token weighting"),
    )
}  # fmt: skip

RACES = {"qwen": "Qwen'dal", "llama": "Llamari", "mistral": "Mistralian", "gemma": "Gemmborn", "phi": "Phi'rin"}
CLASSES = {
    "base": "Wildborn", "instruct": "Academy-Trained", "chat": "Diplomat", "fine-tuned": "Guild Veteran",
}  # fmt: skip


def stature(size_b: float) -> str:
    """Stature by billions of parameters (realm-rules §3): Sprite ≤ 1, Halfling ≤ 3, Human ≤ 14, Giant ≤ 70, Titan."""
    for limit, name in ((1, "Sprite"), (3, "Halfling"), (14, "Human"), (70, "Giant")):
        if size_b <= limit:
            return name
    return "Titan"
