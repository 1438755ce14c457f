"""What counts as a secret: the built-in rules, each with the short literals that can begin it.

A rule looks at JSON text (the bytes between the quotes of strings, escapes and all), at a place where one of its
gates stands, and answers with the span of the secret. It never answers with a span that crosses an unescaped quote,
so a replacement cannot break the JSON around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from afs.step import UsageError, expand

Span = tuple[int, int]

PLACEHOLDER = re.compile(rb"<[A-Z][A-Z0-9_]*:\x01?\d+>")
_ESCAPES = b"nrtbf"
_WORD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_HEX = frozenset(b"0123456789abcdefABCDEF")


@dataclass(frozen=True)
class Rule:
    """One kind of secret.

    Attributes:
        name: what `--keep-rule` and reports call it.
        label: the word in its placeholder, `<LABEL:1>`.
        gates: literals of 2 to 4 bytes; only places where one stands are looked at.
        find: (JSON text, place of the gate) → span of the secret, or None.
        any_case: the gates match in any case.
    """

    name: str
    label: str
    gates: tuple[bytes, ...]
    find: Callable[[bytes, int], Span | None]
    any_case: bool = False


def begins(text: bytes, at: int) -> bool:
    """True when no word runs into `at`: an escape such as `\\n` and a terminal colour code end a word."""
    if not at or text[at - 1] not in _WORD:
        return True
    before = text[at - 1]
    if before in _ESCAPES and text[at - 2 : at - 1] == b"\\":
        return True
    if text[at - 6 : at - 4] == b"\\u" and all(c in _HEX for c in text[at - 4 : at]):
        return True
    # "\u001b[32m" before a token: the m belongs to the colour.
    return before == 0x6D and at > 1 and text[at - 2] in b"0123456789["


def _anywhere(pattern: bytes) -> Callable[[bytes, int], Span | None]:
    """The pattern at the gate; its first group, if it has one, is the secret."""
    compiled = re.compile(pattern)
    group = 1 if compiled.groups else 0

    def find(text: bytes, at: int) -> Span | None:
        found = compiled.match(text, at)
        return found.span(group) if found else None

    return find


def _at_word(pattern: bytes) -> Callable[[bytes, int], Span | None]:
    """As `_anywhere`, but only where a word begins."""
    find_at = _anywhere(pattern)

    def find(text: bytes, at: int) -> Span | None:
        return find_at(text, at) if begins(text, at) else None

    return find


_PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[^\"]*?"
                  rb"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|(?=\\*\"|$))")  # fmt: skip


def _pem(text: bytes, at: int) -> Span | None:
    # Without its end (a cut log) the key reaches to the end of its string.
    found = _PEM.match(text, at - 5) if at >= 5 else None
    return found.span() if found else None


# --- bearer, basic, URLs ----------------------------------------------------------------------------------------------

_BEARER = re.compile(rb"(?i)earer(?:[ \t]|%20|\\t)+([A-Za-z0-9._~+/=-]{8,})")
_BASIC = re.compile(rb"(?i)asic +([A-Za-z0-9+/]{8,}={0,2})")
_DIGIT = re.compile(rb"\d")


def _bearer(text: bytes, at: int) -> Span | None:
    found = _BEARER.match(text, at)
    # "bearer authentication" is prose; a token has a digit or is long.
    if found and (_DIGIT.search(found[1]) or len(found[1]) >= 20):
        return found.span(1)
    return None


def _basic(text: bytes, at: int) -> Span | None:
    found = _BASIC.match(text, at)
    if found and b"uthorization" in text[max(0, at - 24) : at]:
        return found.span(1)
    return None


_USERINFO = re.compile(rb"://(?:([^\s/?#\"'\\:@<>]*):([^\s/?#\"\\]+)|([^\s/?#\"'\\:@<>]{16,}))@")

# What manuals write in place of a password.
_SAMPLE_PASSWORD = re.compile(rb"(?i)(?:pass|passwd|password|pwd|pw|secret|token|x+|\*+|\.+|[{$<\[].*)$")


def _url(text: bytes, at: int) -> Span | None:
    found = _USERINFO.match(text, at)
    if not found:
        return None
    secret = found[2] if found[2] is not None else found[3]
    if _SAMPLE_PASSWORD.match(secret):
        return None
    return found.span(2) if found[2] is not None else found.span(3)


def in_userinfo(text: bytes, at: int) -> bool:
    """True when the `@` at this place ends the user part of a URL (no e-mail address)."""
    start = text.rfind(b"://", max(0, at - 200), at)
    if start < 0:
        return False
    return not re.search(rb"[\s/?#\"\\]", text[start + 3 : at])


# --- e-mail -----------------------------------------------------------------------------------------------------------

_LOCAL_BACKWARDS = re.compile(rb"[A-Za-z0-9._%+-]{1,64}")
_DOMAIN = re.compile(rb"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9])")
NOBODY = (b"git", b"noreply", b"no-reply", b"org-noreply")
"""Local parts that name no person: `git@github.com` is an address of a machine."""


def _email(text: bytes, at: int) -> Span | None:
    domain = _DOMAIN.match(text, at)
    if not domain:
        return None
    local = _LOCAL_BACKWARDS.match(text[max(0, at - 64) : at][::-1])
    if not local:
        return None
    start = at - local.end()
    if text[start - 1 : start] == b"\\" and start:
        # The first letter may belong to an escape: \n, \t, …, \u001b.
        if text[start] in _ESCAPES:
            start += 1
        elif text[start] == 0x75:
            start += 5
    start += len(text[start:at]) - len(text[start:at].lstrip(b".-"))
    if start >= at or text[start:at].lower() in NOBODY or in_userinfo(text, at):
        return None
    return start, domain.end()


# --- home folders -----------------------------------------------------------------------------------------------------

_UNIX_HOME = re.compile(rb"/(?:home|Users)/([^/\\\"'\s:;,<>|*?()\[\]{}`$&=#@%!]+)")
_WINDOWS_HOME = re.compile(rb"\\+(?:Users|Documents and Settings)(\\+)"
                           rb"([^\\/\"':;,<>|*?\s][^\\/\"':;,<>|*?]{0,40}?(?=\\)|"
                           rb"[^\\/\"':;,<>|*?\s()\[\]{}`]+)")  # fmt: skip
_SLUG_HOME = re.compile(rb"-(?:home|Users)-([A-Za-z0-9_]+)")
# Where homes lie when they are not below the root: WSL, Git Bash, Docker Desktop, macOS, Silverblue, BSD, Solaris.
_MOUNT = re.compile(rb"(?:/(?:mnt|cygdrive|host_mnt)/[A-Za-z]|/[A-Za-z]|/var|/usr|/export|/private|/run/host|"
                    rb"/System/Volumes/Data)+$")  # fmt: skip
_NO_PERSON = (b"Shared", b"Public", b"Default", b"linuxbrew", b"*", b"...", b"<", b"~")


def _home(text: bytes, at: int) -> Span | None:
    first = text[at]
    if first == 0x2F:  # /home/jane, /Users/jane, C:/Users/jane
        found = _UNIX_HOME.match(text, at)
        if not found or found[1].startswith(_NO_PERSON) or not _root(text, at) or text[at - 1 : at] in (b".", b"-"):
            return None
        end = found.end()
        while text[end - 1] in b".-" and end > found.start(1) + 1:  # the full stop of a sentence
            end -= 1
        return (at - 2 if text[at - 1 : at] == b":" and _drive(text, at - 1) else at), end
    if first == 0x5C:  # C:\\Users\\jane
        found = _WINDOWS_HOME.match(text, at)
        if not found or found[2].startswith(_NO_PERSON):
            return None
        start = at
        while start and text[start - 1] == 0x5C:
            start -= 1
        return (start - 2 if text[start - 1 : start] == b":" and _drive(text, start - 1) else start), found.end()
    found = _SLUG_HOME.match(text, at)  # the folder name of a project: -home-jane-src
    if not found:
        return None
    if text[at - 1 : at] == b"-" and _drive(text, at - 1):
        return at - 2, found.end()
    # After a space it would be an option of a command; a folder's name begins a string, a line or a path's part.
    starts = not at or text[at - 1] in b"/\"\\" or (text[at - 1] in _ESCAPES and text[at - 2 : at - 1] == b"\\")
    return (at, found.end()) if starts else None


def _root(text: bytes, at: int) -> bool:
    """No folder stands before the path, or only a place where disks and homes are mounted."""
    if begins(text, at):
        return True
    head = text[max(0, at - 40) : at]
    found = _MOUNT.search(head)
    start = at - len(head) + found.start() if found else 0
    return bool(found) and begins(text, start) and text[start - 1 : start] not in (b".", b"-", b"~")


def _drive(text: bytes, mark: int) -> bool:
    """A drive's letter stands before the mark."""
    return mark > 0 and text[mark - 1 : mark].isalpha() and begins(text, mark - 1)


# --- name = secret ----------------------------------------------------------------------------------------------------

_NAMED = re.compile(
    rb"(?i)(?P<word>passw(?:or[dt]|d)|passphrase|secret|token|api[_-]?key|pwd|credentials?|"
    rb"(?:ss|te|nt|th)[_-]?key|(?<=[_-])pass(?![a-z]))"
    rb"(?:[_-]?(?:key|value|raw|prod|dev|test|staging|\d{1,3}))?"
    rb"(?P<shut>\\*[\"'`]\]?)?"
    rb"(?P<op> *(?:=>|:=|={1,3}|:(?: *(?:str|string|&str|&'static str) *=)?) *| +)"
    rb"(?P<quote>\\*[\"'`])?"
)
_QUOTED = {b'"': re.compile(rb'((?:[^"\\]|\\.)*)"'), b"'": re.compile(rb"([^'\"\\]*)'"),
           b"`": re.compile(rb"([^`\"\\]*)`")}  # fmt: skip
_BARE = re.compile(rb"[^\s\"'`\\,;<>(){}\[\]|]+")
_NAME_BACKWARDS = re.compile(rb"[A-Za-z0-9_.-]{0,40}")
_TEMPLATE = re.compile(rb"(?i)^(?:[$%<{*\[(]|your|example|change.?me|placeholder|redacted|x{4}|\.{3}|process\.env|"
                       rb"os\.|env\.|getenv|none$|null$|true$|false$|undefined$|string$)|\$\{|\{\{|\*\*\*")  # fmt: skip
_IDENTIFIER = re.compile(rb"^[A-Za-z_]+\d{0,2}(?:\.[A-Za-z_]\w*)*\.?$")
_LETTER = re.compile(rb"[A-Za-z]")
_WEAK = (b"token", b"credential", b"credentials")
# first_pass = 12.5s
_MEASURE = re.compile(rb"^\d[\d.,:]*[A-Za-z%]{0,3}$")
_PATHLIKE = re.compile(rb"^[~./]")


def _named(text: bytes, at: int) -> Span | None:
    found = _NAMED.match(text, at)
    if not found:
        return None
    shut, quote, op = found["shut"] or b"", found["quote"] or b"", found["op"].strip()
    if not op and not _option(text, at):
        return None
    # A key of the JSON itself takes a string of the JSON itself; a name inside a string never leaves the string.
    if (shut[:1] == b'"') != (quote[:1] == b'"'):
        return None
    start = found.end()
    if quote[:1] == b"\\":
        end = text.find(quote, start, start + 4096)
        border = text.find(b'"', start, start + 4096)
        if end < 0 or border != end + len(quote) - 1:
            return None
    elif quote:
        value = _QUOTED[quote].match(text, start)
        if not value:
            return None
        end = value.end(1)
    else:
        value = _BARE.match(text, start)
        if not value or text[value.end() : value.end() + 1] in (b"(", b"["):
            return None
        end = value.end()
        while end > start and text[end - 1] in b".:!?":
            end -= 1
    secret = text[start:end]
    if quote:
        return (start, end) if _quoted_secret(found["word"].lower(), secret) else None
    return (start, end) if _bare_secret(found["word"].lower(), secret, _variable(text, at, found)) else None


def _option(text: bytes, at: int) -> bool:
    """The word ends the name of a long command-line option (`--db-password hunter22`)."""
    name = _NAME_BACKWARDS.match(text[max(0, at - 40) : at][::-1])[0][::-1]
    return name.startswith(b"--") or name.endswith(b"n--")


def _variable(text: bytes, at: int, found: re.Match[bytes]) -> bool:
    """An environment variable: the whole name in capitals, `=` without spaces."""
    name = _NAME_BACKWARDS.match(text[max(0, at - 40) : at][::-1])[0][::-1] + found["word"]
    if name[:1] in b"nrt" and text[at + len(found["word"]) - len(name) - 1 :][:1] == b"\\":
        name = name[1:]
    return found["op"] == b"=" and name.isupper()


def _quoted_secret(word: bytes, secret: bytes) -> bool:
    spaced = b" " in secret or b"\\n" in secret or b"\\t" in secret
    if len(secret) < 6 or _TEMPLATE.search(secret) or (spaced and word != b"passphrase"):
        return False
    if word == b"pass":
        return bool(_DIGIT.search(secret)) and not _MEASURE.match(secret) and not _is_path(secret)
    if word in _WEAK or word.endswith(b"key"):
        # "token": "identifier" names a kind of token; a real one has a digit or is long.
        return len(secret) >= 8 and (bool(_DIGIT.search(secret)) or len(secret) >= 24) and not _is_path(secret)
    return True


def _bare_secret(word: bytes, secret: bytes, variable: bool) -> bool:
    if len(secret) < 6 or _TEMPLATE.search(secret) or _is_path(secret):
        return False
    if word == b"pass" and _MEASURE.match(secret):
        return False
    if variable:
        return word != b"pwd" or bool(_DIGIT.search(secret))
    if not (_DIGIT.search(secret) and _LETTER.search(secret)):
        return False
    if word.startswith(b"pass") or word == b"pwd":
        return b"." not in secret or not _IDENTIFIER.match(secret)
    return len(secret) >= 8 and not _IDENTIFIER.match(secret)


def _is_path(secret: bytes) -> bool:
    # AWS secret keys are 40 characters of base64 and may begin with a slash.
    return bool(_PATHLIKE.match(secret)) and not (len(secret) == 40 and secret.count(b"/") < 4)


# --- the table --------------------------------------------------------------------------------------------------------

# The order decides the label when two rules meet in one place: the special one first.
RULES: tuple[Rule, ...] = (
    Rule("pem", "PRIVATE_KEY", (b"BEGI",), _pem),
    Rule("aws", "AWS_KEY", (b"AKIA", b"ASIA", b"ABIA", b"ACCA"), _anywhere(rb"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}")),
    Rule("github", "GITHUB_TOKEN", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"gith"), _anywhere(
        rb"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}")),
    Rule("anthropic", "ANTHROPIC_KEY", (b"sk-a",), _anywhere(rb"sk-ant-[A-Za-z0-9_-]{16,}")),
    Rule("openai", "OPENAI_KEY", (b"sk-",), _at_word(
        rb"sk-(?!ant-)(?:(?:proj|svcacct|admin|None|or-v1)-[A-Za-z0-9_-]{16,}|[A-Za-z0-9]{20,}[A-Za-z0-9_-]*)")),
    Rule("google", "GOOGLE_KEY", (b"AIza", b"ya29", b"GOCS"), _anywhere(
        rb"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}")),
    Rule("huggingface", "HF_TOKEN", (b"hf_",), _at_word(rb"hf_[A-Za-z0-9]{20,}")),
    Rule("gitlab", "GITLAB_TOKEN", (b"glpa", b"glpt", b"glde", b"glrt", b"glcb", b"glso", b"glft", b"glim", b"glag"),
         _anywhere(rb"gl(?:pat|ptt|dt|rt|cbt|soat|ft|imt|agent)-[A-Za-z0-9_.-]{16,}")),
    Rule("gitlab_deploy", "GITLAB_TOKEN", (b"gldt",), _anywhere(rb"gldt-[A-Za-z0-9_.-]{16,}")),
    Rule("slack", "SLACK_TOKEN", (b"xox", b"xapp"), _anywhere(
        rb"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}")),
    Rule("slack_hook", "SLACK_TOKEN", (b"ks.s",), _anywhere(
        rb"ks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9/_]{16,})")),
    Rule("stripe", "STRIPE_KEY", (b"sk_l", b"rk_l", b"sk_t", b"whse"), _at_word(
        rb"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{20,}")),
    Rule("npm", "NPM_TOKEN", (b"npm_",), _anywhere(rb"npm_[A-Za-z0-9]{36}")),
    Rule("pypi", "PYPI_TOKEN", (b"pypi",), _anywhere(rb"pypi-AgE[A-Za-z0-9_-]{30,}")),
    Rule("sendgrid", "SENDGRID_KEY", (b"SG.",), _at_word(rb"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}")),
    Rule("jwt", "JWT", (b"eyJ",), _at_word(rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?|"
                                           rb"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    Rule("bearer", "BEARER_TOKEN", (b"eare",), _bearer, any_case=True),
    Rule("basic", "BASIC_AUTH", (b"asic",), _basic, any_case=True),
    Rule("url", "URL_PASSWORD", (b"://",), _url),
    Rule("named", "SECRET", (b"pass", b"secr", b"toke", b"api_", b"apik", b"api-", b"pwd", b"cred", b"ss_k", b"sske",
                             b"ss-k", b"te_k", b"teke", b"te-k", b"nt_k", b"ntke", b"th_k"), _named, any_case=True),
    Rule("email", "EMAIL", (b"@",), _email),
    Rule("home", "HOME", (b"/hom", b"/Use", b"\\Use", b"\\Doc", b"-hom", b"-Use"), _home),
)  # fmt: skip


def rule_names() -> tuple[str, ...]:
    """Names of the built-in rules, in their order."""
    return tuple(rule.name for rule in RULES)


# --- rules of the user ------------------------------------------------------------------------------------------------


class RuleError(UsageError):
    """A rules file that cannot be used; the message names the rule and what is wrong."""


@dataclass(frozen=True)
class CustomRule:
    """A rule of the user's: a pattern over the text of each string (not over JSON text).

    Attributes:
        name: becomes the label, in capitals.
        pattern: a regular expression; its first group, if there is one, is the secret.
        contains: a literal that every match holds; rows without it are not searched (optional, makes it fast).
    """

    name: str
    pattern: str
    contains: str = ""

    @property
    def label(self) -> str:
        return re.sub(r"[^A-Z0-9]+", "_", self.name.upper()).strip("_")


def load_rules(path: Path | str) -> list[CustomRule]:
    """The `[[rule]]` tables of a TOML file, each with name, pattern and optionally contains.

    Raises:
        RuleError: the file is missing or no TOML, a key is unknown or missing, or a pattern is wrong.
    """
    import tomllib

    path = expand(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RuleError(f"rules file {path} does not exist; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RuleError(f"rules file {path} is no TOML: {error}") from error
    rows = found.get("rule", found.get("rules"))
    if not isinstance(rows, list) or not rows:
        raise RuleError(f"rules file {path} has no [[rule]] table; write [[rule]], name = \"…\", pattern = '…'")
    rules = []
    for number, row in enumerate(rows, 1):
        where = f"{path}: rule {number}"
        unknown = set(row) - {"name", "pattern", "contains"}
        if unknown or not isinstance(row.get("name"), str) or not isinstance(row.get("pattern"), str):
            raise RuleError(f"{where} needs the texts name and pattern (and may have contains), found {sorted(row)}")
        rule = CustomRule(row["name"], row["pattern"], row.get("contains", ""))
        check_rule(rule, where)
        rules.append(rule)
    return rules


def check_rule(rule: CustomRule, where: str) -> None:
    if not re.match(r"[A-Z]", rule.label):
        raise RuleError(f"{where}: the name {rule.name!r} must begin with a letter")
    try:
        pattern = re.compile(rule.pattern)
    except re.error as error:
        raise RuleError(f"{where} ({rule.name}): bad pattern {rule.pattern!r}: {error}") from error
    if pattern.match(""):
        raise RuleError(f"{where} ({rule.name}): the pattern {rule.pattern!r} matches the empty text")
