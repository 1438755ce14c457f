"""The arms of the climb benchmark: who decides what the hero practises next.

Each is a generator over a `Field`: it fights until the purse is empty and yields the tasks whose stage has just ended,
so that forgetting can be measured from there. `ARMS` names them in the order of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks.climb_field import Field, Task, mixture
from realm import db
from realm.arena import plan
from realm.guild.campaigns import seed_of
from realm.guild.curriculum import QuestSpec

Arm = Callable[[Field], Iterator[list[Task]]]

RAISE_ABOVE, LOWER_BELOW, LAST = 0.70, 0.10, 20  # reasoning-gym's rule on its last 20 training scores


def sequential(field: Field) -> Iterator[list[Task]]:
    """Naive: one task after the other, easiest levels first, an equal share of the budget each, never back."""
    tasks = field.tasks
    for number, task in enumerate(tasks, 1):
        until = field.purse.tokens * number / len(tasks), field.purse.cpu_s * number / len(tasks)
        while field.purse.spent < until[0] and field.purse.used_s < until[1]:
            field.fight(mixture({task: 1.0}, "sequential"), [])
        yield [task]


def uniform(field: Field) -> Iterator[list[Task]]:
    """Uniform mixture over every task, from the first step to the last; it asks nothing."""
    while not field.purse.empty:
        field.fight(mixture(dict.fromkeys(field.tasks, 1.0), "uniform"), [])
        yield []


def score_rule(field: Field) -> Iterator[list[Task]]:
    """reasoning-gym's rule: each skill trains levels 1…d alike; d rises when the mean of the last 20 training scores
    (fresh problems of the training split at those levels) is above 0.70 and falls below 0.10."""
    top = {name: 1 for name in field.ladder}
    asked = 0
    while not field.purse.empty:
        shares = {(name, n): 1 / high for name, high in top.items() for n in range(1, high + 1)}
        field.fight(mixture(shares, "scores"), [])
        ended = []
        for name, high in list(top.items()):
            asked += 1
            problems = [field.ladder[name].generate(1 + i % high, 1, seed_of("score", asked, i), "train")[0]
                        for i in range(LAST)]  # fmt: skip
            right = field.ask(problems)
            mean = sum(right) / len(right)
            if mean > RAISE_ABOVE:
                ended.append((name, high))
                top[name] = min(high + 1, field.ladder[name].max_level)
            elif mean < LOWER_BELOW:
                top[name] = max(1, high - 1)
        yield ended


def guild(field: Field, rehearse: bool = True) -> Iterator[list[Task]]:
    """Ours: the Guild's own curriculum, trials and level rule, as the hero loop calls them."""
    while not field.purse.empty:
        with db.read(field.engine) as connection:
            spec, _ = plan.idle_spec(connection, field.campaign["id"], field.profile)
            training = {name: plan.skill_state(connection, field.campaign["id"], skill).training
                        for name, skill in field.ladder.items()}
        spec = spec if rehearse else without_rehearsal(spec, training)
        done = field.fight(spec)
        ended = list(done.promoted)
        # The loop examines the next levels at once where the quest had trained them.
        while done.promoted and not field.purse.empty:
            with db.read(field.engine) as connection:
                trials = [plan.single_trial(connection, field.campaign, *each, "promotion")
                          for each in plan.follow_ups(connection, field.campaign, done.promoted)]
            if not trials:
                break
            done = field.hold(trials)
            ended += done.promoted
        yield ended


def without_rehearsal(spec: QuestSpec, training: Mapping[str, int]) -> QuestSpec:
    """The same quest with nothing but the levels in training and those ahead."""
    rows = {(name, level): share for name, mix in {spec.skill: spec.mix, **spec.others}.items()
            for level, share in mix.items() if level >= training[name]}  # fmt: skip
    if spec.kind == "rehearsal" or not rows:
        rows = {(spec.skill, training[spec.skill]): 1.0}
    return mixture(rows, spec.reason)


def guild_without_rehearsal(field: Field) -> Iterator[list[Task]]:
    """Ours without rehearsal: the same trials and rule, but nothing mastered is ever trained again."""
    return guild(field, rehearse=False)


ARMS: dict[str, Arm] = {
    "sequential": sequential, "uniform": uniform, "scores": score_rule, "guild-no-rehearsal": guild_without_rehearsal,
    "guild": guild,
}  # fmt: skip
