"""IFEval: 25 kinds of instructions whose following a program can check (Zhou et al. 2023, arXiv:2311.07911).

Strict: the text as it is; loose: any of eight variants of it (without asterisks, first or last line) follows. Words,
sentences and languages are told by simple rules here, where the published program uses nltk and langdetect.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxlm.data.language import SCRIPTS, language
from jaxlm.errors import UserError, unknown
from jaxlm.evals.items import Scores


def _is_language(text: str, code: str) -> bool:
    found = language(text)
    alike = code in SCRIPTS and SCRIPTS.get(found) == SCRIPTS[code] and code not in ("ar", "fa", "ur")
    return found == code or alike


def sentences(text: str) -> list[str]:
    """Cut behind a full stop, a question or an exclamation mark that a space and no small letter follow."""
    text = re.sub(r"\b(Mr|Mrs|Ms|Dr|St|Prof|Sr|Jr|vs|etc|e\.g|i\.e)\.", r"\1", text)
    return [part for part in re.split(r"(?<=[.!?])[\"')\]]*\s+(?![a-z])|\n{2,}", text.strip()) if part.strip()]


def _relation(count: float, relation: str, bound: float) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _parts(text: str, cut: str, count: int) -> bool:
    """Exactly so many parts, of which only the first and the last may be empty, and do not count."""
    parts = re.split(cut, text)
    empty = [i for i, part in enumerate(parts) if not part.strip()]
    return len(parts) - len(empty) == count and not set(empty) - {0, len(parts) - 1}


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = text.split("\n\n")
    full = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > full or full != num_paragraphs or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _json(text: str) -> bool:
    text = re.sub(r"^```(?:json|JSON|Json)?|```$", "", text.strip()).strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _highlights(text: str, num_highlights: int) -> bool:
    one = [found for found in re.findall(r"\*[^\n*]*\*", text) if found.strip("*").strip()]
    two = [found for found in re.findall(r"\*\*[^\n*]*\*\*", text) if found.strip("*").strip()]
    return len(one) + len(two) >= num_highlights


def _postscript(text: str, postscript_marker: str) -> bool:
    known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = known.get(postscript_marker, rf"\s*{re.escape(postscript_marker.lower())}.*$")
    return bool(re.search(pattern, text.lower(), re.MULTILINE))


def _two(text: str) -> bool:
    parts = text.split("******")
    full = [part.strip() for part in parts if part.strip()]
    return _parts(text, r"\*{6}", 2) and full[0] != full[1]


def _capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _relation(sum(w.isupper() for w in re.findall(r"\w[\w'-]*", text)), capital_relation, capital_frequency)


def _quoted(text: str) -> bool:
    return len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"'


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.MULTILINE))


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda t, keywords: all(re.search(re.escape(k), t, re.I) for k in keywords),
    "keywords:frequency": lambda t, keyword, frequency, relation: _relation(
        len(re.findall(re.escape(keyword), t, re.I)), relation, frequency
    ),
    "keywords:forbidden_words": lambda t, forbidden_words: (
        not any(re.search(rf"\b{re.escape(w)}\b", t, re.I) for w in forbidden_words)
    ),
    "keywords:letter_frequency": lambda t, letter, let_frequency, let_relation: _relation(
        t.lower().count(letter.lower()), let_relation, let_frequency
    ),
    "language:response_language": lambda t, language: _is_language(t, language),
    "length_constraints:number_sentences": lambda t, num_sentences, relation: _relation(
        len(sentences(t)), relation, num_sentences
    ),
    "length_constraints:number_words": lambda t, num_words, relation: _relation(_count(r"\w+", t), relation, num_words),
    "length_constraints:number_paragraphs": lambda t, num_paragraphs: _parts(t, r"\s?\*\*\*\s?", num_paragraphs),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda t, num_placeholders: _count(r"\[.*?\]", t) >= num_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda t, num_bullets: (
        _count(r"^\s*\*[^*].*$", t) + _count(r"^\s*-.*$", t) == num_bullets
    ),
    "detectable_format:constrained_response": lambda t: any(
        f"My answer is {word}." in t for word in ("yes", "no", "maybe")
    ),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": lambda t, section_spliter, num_sections: (
        len(re.split(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", t)) - 1 >= num_sections
    ),
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda t: any(found.strip("<>").strip() for found in re.findall(r"<<[^\n]+>>", t)),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda t, prompt_to_repeat: (
        t.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda t, end_phrase: t.strip().strip('"').lower().endswith(end_phrase.strip().lower()),
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda t: t.isupper() and language(t) == "en",
    "change_case:english_lowercase": lambda t: t.islower() and language(t) == "en",
    "punctuation:no_comma": lambda t: "," not in t,
}


def follows(text: str, instruction: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a text follows one instruction. Raises UserError for an unknown one, or one without its arguments."""
    if instruction not in CHECKS:
        raise unknown("instruction", instruction, CHECKS)
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return bool(text.strip()) and CHECKS[instruction](text, **given)
    except TypeError:
        raise UserError(f"{instruction} does not take the arguments {', '.join(given) or 'none'}") from None


def variants(text: str) -> list[str]:
    """The eight forms of which the loose score takes any."""
    lines = text.split("\n")
    cut = [text, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    return [*cut, *(one.replace("*", "") for one in cut)]


def judge(instructions: list[tuple[str, Mapping[str, Any]]]) -> Callable[[str], Scores]:
    """text -> the share of instructions followed, and whether all are; strictly and loosely."""

    def scores(text: str) -> Scores:
        strict = [follows(text, *one) for one in instructions]
        loose = [any(follows(form, *one) for form in variants(text)) for one in instructions]
        n = len(instructions)
        return {
            "prompt_strict": float(all(strict)), "inst_strict": sum(strict) / n,
            "prompt_loose": float(all(loose)), "inst_loose": sum(loose) / n, "instructions": float(n),
        }  # fmt: skip

    return scores
