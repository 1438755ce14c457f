"""The Oracle's Eye: token weights from what the hero expected, over the loss of any school that trains on tokens.

`token_weights(logits, labels, policy)` is the whole idea. s is a token's surprisal -log p in nats, H the entropy of the
prediction; raw weights are

    uniform    1                                    plain cross-entropy: no weight is ever computed
    focal      (1 - p)^gamma                        Lin 2017 (1708.02002), eq. 4: the hard ones
    surprisal  s                                    what was least expected
    entropy    H / ln V                             where the hero is unsure, whatever the label says
    dft        p                                    Wu 2025 (2508.05629), loss -sg(p) log p: the already likely ones
    eaft       H of the top k renormalised / ln k   Diao 2026 (2601.02151), gate of the loss, k = 20: as entropy

They are computed in fp32 without gradient, clipped to [floor, ceiling], and divided by their mean over the trained
tokens of the whole optimizer step, so that the learning rate keeps its meaning. Where the step is one micro-batch its
loss is divided; else its gradient is, before it is clipped: it is linear in weights that have no gradient, so that is
exact, whatever the micro-batches and length blocks were (`StepWeights`, `scribe._ScribeTrainer`).

See one row through the Eye: `python3 -m training battle tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from realm.heroes.chat import Rendered
from realm.heroes.model import IGNORE, Hero, over_labels, plain_head
from realm.heroes.profile import HeroProfile, OracleEye, parse_profile

TOP_SHARE = 0.05  # of the tokens, for the alarm
LOOKED_AT, SHOWN = 16, 4  # rows of a quest that a battle measures, and those of them it keeps: the most surprising
LONGEST = 1024  # tokens of a shown row; the last ones, where the answer is


class AllMasked(ValueError):
    """No label counts: there is nothing to weigh, and a loss of 0 would look like success."""


def eye_of(profile: HeroProfile, options: Mapping[str, Any]) -> OracleEye:
    """The hero's Eye with the quest's own keys (`options["oracle_eye"]`) laid over it.

    Raises:
        ProfileError: an unknown policy or key, with the nearest known one.
    """
    own = options.get("oracle_eye")
    if not own:
        return profile.oracle_eye
    values = profile.model_dump()
    values["oracle_eye"] |= own if isinstance(own, Mapping) else {"policy": own}
    return parse_profile(values, "quest options").oracle_eye


def raw_weights(logits: Tensor, targets: Tensor, eye: OracleEye) -> Tensor:
    """Clipped weights before normalisation.

    Args:
        logits: [n, vocabulary], already shifted: row i predicts `targets[i]`; any float type.
        targets: int64 [n], none of them masked.

    Returns:
        fp32 [n] in [floor, ceiling], without gradient.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        if eye.policy == "uniform":
            return torch.ones(len(targets), device=logits.device)
        return _policy(logits.float(), targets, eye).clamp(eye.floor, eye.ceiling)


def _policy(logits: Tensor, targets: Tensor, eye: OracleEye) -> Tensor:
    if eye.policy == "eaft":
        k = min(eye.top_k, logits.shape[-1])
        return entropy(logits.topk(k, dim=-1).values) / math.log(k)
    if eye.policy == "entropy":
        return entropy(logits) / math.log(logits.shape[-1])
    surprisal = functional.cross_entropy(logits, targets, reduction="none")
    if eye.policy == "surprisal":
        return surprisal
    if eye.policy == "dft":
        return torch.exp(-surprisal)
    return (-torch.expm1(-surprisal)) ** eye.gamma  # 1 - p without losing p close to 1


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax over the last dimension, in nats; fp32 in, fp32 out."""
    logs = torch.log_softmax(logits, dim=-1)
    return -(logs.exp() * logs).sum(-1)


def token_weights(logits: Tensor, labels: Tensor, policy: OracleEye) -> Tensor:
    """Weights of one batch that is a whole optimizer step.

    Args:
        logits: [rows, length, vocabulary]; position t predicts label t + 1.
        labels: int64 [rows, length], IGNORE where the loss does not count.

    Returns:
        fp32 [rows, length - 1], for labels[:, 1:]: 0 where masked, mean 1 over the others; without gradient.

    Raises:
        AllMasked: no label counts.
    """
    counted = labels[:, 1:] != IGNORE
    if not bool(counted.any()):
        raise AllMasked("every label of the batch is masked; a row needs an assistant turn to train on")
    raw = raw_weights(logits[:, :-1][counted], labels[:, 1:][counted], policy)
    weights = torch.zeros(counted.shape, device=logits.device)
    weights[counted] = raw / raw.mean()
    return weights


@dataclass
class StepWeights:
    """The raw weights of one optimizer step, gathered over its blocks and micro-batches."""

    weights: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def add(self, weights: Tensor, losses: Tensor) -> None:
        """Raw weights and plain cross-entropies, both [n]."""
        self.weights.append(weights.detach().float())
        self.losses.append(losses.detach().float())

    def total(self) -> Tensor:
        """Sum of the raw weights so far."""
        return torch.stack([part.sum() for part in self.weights]).sum()

    def facts(self) -> tuple[float, dict[str, float]]:
        """(plain cross-entropy per trained token, what the weights did), losses in nats.

        `weighted_loss`: what was trained on; `effective_tokens` = (sum w)^2 / sum w^2, Kish's effective sample size,
        between 1 and the trained tokens; `top_mass`: share of the weight on the heaviest 5 % of the tokens.
        """
        weights, losses = torch.cat(self.weights).double(), torch.cat(self.losses).double()
        return float(losses.mean()), {
            "weighted_loss": float((weights * losses).sum() / weights.sum()),
            "effective_tokens": effective_tokens(weights), "top_mass": top_mass(weights),
        }  # fmt: skip


def effective_tokens(weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 of positive weights [n]."""
    weights = weights.double()
    return float(weights.sum() ** 2 / (weights**2).sum())


def top_mass(weights: Tensor, share: float = TOP_SHARE) -> float:
    """Share of the whole weight that the heaviest `share` of the tokens carry; at least one token is counted."""
    weights = weights.double()
    heaviest = weights.topk(max(1, int(share * len(weights)))).values
    return float(heaviest.sum() / weights.sum())


# --- for people to look at -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenMap:
    """One row as the hero sees it: a list of the same length each.

    `weight` is None where the loss does not count, else 1 on average over the rows looked at together; `surprisal` and
    `entropy` in nats, None for the first token, which nothing predicts.
    """

    row: int
    policy: str
    text: list[str]
    trained: list[bool]
    weight: list[float | None]
    surprisal: list[float | None]
    entropy: list[float | None]

    @property
    def mean_surprisal(self) -> float:
        """Nats per trained token."""
        found = [s for s, trained in zip(self.surprisal, self.trained, strict=True) if trained and s is not None]
        return sum(found) / max(1, len(found))

    def tokens(self) -> dict[str, list[Any]]:
        """As JSON."""
        return {"text": self.text, "trained": self.trained, "weight": self.weight, "surprisal": self.surprisal,
                "entropy": self.entropy}  # fmt: skip


def inspect(hero: Hero, rows: Mapping[int, Rendered], eye: OracleEye) -> list[TokenMap]:
    """Token maps of the rows {number: row} as this hero sees them now, in their order; changes nothing."""
    plain, was_training = plain_head(hero.model), hero.model.training
    hero.model.eval()
    with torch.no_grad(), hero.autocast():
        seen = {number: _measure(hero, row, eye, plain) for number, row in rows.items()}
    hero.model.train(was_training)
    trained = {number: torch.tensor(row.mask[1:]) for number, row in rows.items()}
    counted = torch.cat([weights[trained[number]] for number, (weights, _, _) in seen.items()])
    mean = float(counted.mean()) if len(counted) else 1.0
    return [_token_map(hero, number, rows[number], eye.policy, *(s.tolist() for s in (weights / mean, *others)))
            for number, (weights, *others) in seen.items()]  # fmt: skip


def hardest(hero: Hero, rows: Sequence[Any], eye: OracleEye) -> list[TokenMap]:
    """Maps of the most surprising of some evenly spaced rows; none where the rows are no token sequences (pairs)."""
    step = max(1, len(rows) // LOOKED_AT)
    picked = {i: rows[i] for i in range(0, len(rows), step)[:LOOKED_AT] if isinstance(rows[i], Rendered)}
    if not picked:
        return []
    return sorted(inspect(hero, picked, eye), key=lambda found: -found.mean_surprisal)[:SHOWN]


def _measure(hero: Hero, row: Rendered, eye: OracleEye, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(raw weights, surprisal, entropy) of the tokens after the first, fp32 on the CPU."""

    def measure(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = logits.float()
        surprisal = functional.cross_entropy(logits, targets, reduction="none")
        return raw_weights(logits, targets, eye), surprisal, entropy(logits)

    ids = torch.tensor([row.ids], device=next(hero.model.parameters()).device)
    parts = over_labels(hero.model, ids, ids, plain, measure)
    return tuple(torch.cat(part).float().cpu() for part in zip(*parts, strict=True))


def _token_map(
    hero: Hero, number: int, row: Rendered, policy: str, weights: list[float], surprisal: list[float],
    entropies: list[float],
) -> TokenMap:  # fmt: skip
    def shown(values: list[float]) -> list[float | None]:
        return [None, *(round(value, 4) for value in values)][-LONGEST:]

    weighed = [value if trained else None for value, trained in zip(shown(weights), row.mask[-LONGEST:], strict=True)]
    return TokenMap(number, policy, [_text(hero, i) for i in row.ids[-LONGEST:]], row.mask[-LONGEST:], weighed,
                    shown(surprisal), shown(entropies))  # fmt: skip


def _text(hero: Hero, token: int) -> str:
    """A token's text; bytes that are no whole character are shown as the vocabulary writes them."""
    text = hero.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return hero.tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text
