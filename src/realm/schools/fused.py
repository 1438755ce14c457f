"""The optimizer inside the backward pass: a parameter is stepped as soon as its gradient is there, which is freed.

Whole weights above 2e9 parameters fit a 24 GB card only so (contracts C8). There is no gradient left to be added to or
to be clipped as a whole: accumulation is refused (`realm.arena.physics`), and each parameter is clipped by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from realm.heroes.model import core
from realm.heroes.profile import HeroProfile

Make = Callable[[torch.nn.Parameter], torch.optim.Optimizer]


class FusedBackward(torch.optim.Optimizer):
    """One optimizer per parameter, run by a hook when its gradient has been accumulated; `step` has nothing left to do.

    All share this object's groups and state, so that schedules, saving and loading see one plain optimizer.

    Args:
        parameters: parameter → how to make its optimizer.
        max_norm: every parameter's gradient is clipped to this norm.
    """

    def __init__(self, parameters: Mapping[torch.nn.Parameter, Make], max_norm: float) -> None:
        self._parts = {parameter: make(parameter) for parameter, make in parameters.items()}
        self._max_norm, self._squares = max_norm, 0.0
        super().__init__([group for part in self._parts.values() for group in part.param_groups], {})
        self._share()
        self._hooks = [p.register_post_accumulate_grad_hook(self._step_one) for p in self._parts]

    def _share(self) -> None:
        for group, part in zip(self.param_groups, self._parts.values(), strict=True):
            part.param_groups, part.state = [group], self.state

    @torch.no_grad()
    def _step_one(self, parameter: torch.Tensor) -> None:
        norm = torch.nn.utils.clip_grad_norm_([parameter], self._max_norm)
        self._squares += float(norm) ** 2
        self._parts[parameter].step()
        parameter.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Everything was done in the backward pass."""

    def norm(self) -> float:
        """Norm of all gradients since the last call, before clipping."""
        found, self._squares = math.sqrt(self._squares), 0.0
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it is: the library's own would cast 8-bit states to the parameters' type."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        for index, parameter in enumerate(p for group in self.param_groups for p in group["params"]):
            if index in state_dict["state"]:
                self.state[parameter] = state_dict["state"][index]

    def close(self) -> None:
        """Take the hooks away; the parameters may then belong to another optimizer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def eight_bit(profile: HeroProfile, model: Any) -> FusedBackward:
    """8-bit Adam, or GaLore's, on every parameter; embeddings keep 32-bit states, as bitsandbytes advises."""
    from bitsandbytes.optim import AdamW8bit, AdamW32bit

    wanted, rate = profile.optimizer, profile.training_defaults.learning_rate
    embedding = core(model).get_input_embeddings().weight
    projected = _linear(model) if wanted.type == "galore_8bit" else set()

    def make(parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
        decay = wanted.weight_decay if parameter.ndim > 1 else 0.0  # norms do not decay, as in transformers' Trainer
        common = {"lr": rate, "betas": wanted.betas, "weight_decay": decay}
        if parameter is embedding:
            return AdamW32bit([parameter], **common)
        if id(parameter) not in projected:
            return AdamW8bit([parameter], **common)
        from galore_torch import GaLoreAdamW8bit

        group = {"params": [parameter], "rank": wanted.rank, "update_proj_gap": wanted.update_proj_gap,
                 "scale": wanted.scale, "proj_type": "std"}  # fmt: skip
        return GaLoreAdamW8bit([group], **common)

    trained = {parameter: make for parameter in model.parameters() if parameter.requires_grad}
    return FusedBackward(trained, profile.training_defaults.max_grad_norm)


def _linear(model: Any) -> set[int]:
    """Ids of the weights of linear maps, the head left out."""
    head = core(model).get_output_embeddings()
    return {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}
