"""Token counts with the hero's own tokenizer and chat template, without torch and without transformers.

`heroes/chat.py` renders rows for the battle with transformers' tokenizer; here the same code renders them with the
`tokenizers` library and the template read from the tokenizer's folder. What passes here renders in the battle.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from realm.heroes import chat
from realm.heroes.profile import HeroProfile, ProfileError, weights_folder
from realm.settings import RealmHome

_KINDS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TokensMissing(RuntimeError):
    """No token counts can be made; the message says why and what to install or download."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text in TRL's templates; rendering looks through it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])  # fmt: skip
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


class LightTokenizer:
    """The part of Hugging Face's tokenizer interface that `heroes/chat.py` uses, from a tokenizer's folder.

    Raises (constructor):
        TokensMissing: the `tokenizers` library or `tokenizer.json` is not there.
    """

    def __init__(self, folder: Path, template: str | None = None) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise TokensMissing("the tokenizers library is missing; pip install -e '.[training]'") from error
        if not (folder / "tokenizer.json").is_file():
            raise TokensMissing(f"{folder} holds no tokenizer.json, so rows cannot be counted in tokens")
        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = _read_json(folder / "tokenizer_config.json") | {
            k: v for k, v in _read_json(folder / "special_tokens_map.json").items() if v}  # fmt: skip
        self.special_tokens_map = {kind: _text(config[kind]) for kind in _KINDS if config.get(kind)}
        own = folder / "chat_template.jinja"
        written = own.read_text(encoding="utf-8") if own.is_file() else None
        self.chat_template = template or written or _template(config)
        more = [_text(t) for t in config.get("additional_special_tokens") or config.get("extra_special_tokens") or ()]
        added = self.backend_tokenizer.get_added_tokens_decoder()
        self.added_tokens_decoder = added
        special = [t.content for t in added.values() if t.special]
        self.all_special_tokens = list(dict.fromkeys([*self.special_tokens_map.values(), *more, *special]))
        ids = (self.backend_tokenizer.token_to_id(token) for token in self.all_special_tokens)
        self.all_special_ids = [i for i in ids if i is not None]

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, tokenize: bool, add_generation_prompt: bool, **options: Any
    ) -> str:
        """The text of a conversation (`tokenize` must be False)."""
        assert not tokenize
        return _compiled(self.chat_template).render(
            messages=messages, add_generation_prompt=add_generation_prompt, tools=None, documents=None,
            **self.special_tokens_map, **options)  # fmt: skip

    def decode(self, ids: list[int], skip_special_tokens: bool = False, **_: Any) -> str:
        return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _template(config: dict[str, Any]) -> str | None:
    found = config.get("chat_template")
    if isinstance(found, list):  # several named templates
        found = next((t["template"] for t in found if t.get("name") == "default"), None)
    return found


class TokenCounter:
    """Counts the tokens of rows as the battle will render them for one hero."""

    def __init__(self, tokenizer: Any, name: str, max_length: int, thinking: bool) -> None:
        self.tokenizer, self.name, self.max_length, self.thinking = tokenizer, name, max_length, thinking

    def count(self, messages: list[dict[str, str]]) -> int:
        """Tokens of the row (the sum when it is trained turn by turn); raises as `lengths` does."""
        return sum(self.lengths(messages))

    def lengths(self, messages: list[dict[str, str]]) -> list[int]:
        """Tokens of each row that the battle makes of this one: one, or one per assistant turn (see `render_turns`).

        Raises:
            RenderError: the row cannot be trained on by this hero; over-long rows have code "too_long".
        """
        try:
            rows = chat.render_turns(messages, self.tokenizer, max_length=self.max_length, thinking=self.thinking)
        except jinja2.TemplateError as error:
            raise chat.RenderError("template", f"the hero's chat template refuses the row: {error}") from error
        return [len(row.ids) for row in rows]


def token_counter(profile: HeroProfile, home: RealmHome) -> TokenCounter:
    """The counter of a hero.

    Raises:
        TokensMissing: the library or the hero's tokenizer is not on this machine.
    """
    if profile.embedded:
        folder = Path(str(resources.files("realm.heroes") / "tokenizer"))
    else:
        try:
            folder = weights_folder(profile, home)
        except ProfileError as error:
            raise TokensMissing(str(error)) from error
    template = None
    if profile.chat.template != "tokenizer":
        template = Path(profile.chat.template).expanduser().read_text(encoding="utf-8")
    tokenizer = LightTokenizer(folder, template)
    if not tokenizer.chat_template:
        raise TokensMissing(f"the tokenizer in {folder} has no chat template; give chat.template in the hero's YAML")
    return TokenCounter(tokenizer, folder.name, profile.training_defaults.max_length, profile.chat.thinking)
