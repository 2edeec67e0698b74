"""Which language a text is in, by simple rules: its script, and of Latin letters the most frequent words."""

import re
import unicodedata
from collections import Counter

SCRIPTS = {
    "ar": "ARABIC", "fa": "ARABIC", "ur": "ARABIC", "he": "HEBREW", "hi": "DEVANAGARI", "mr": "DEVANAGARI",
    "ne": "DEVANAGARI", "bn": "BENGALI", "gu": "GUJARATI", "kn": "KANNADA", "ml": "MALAYALAM", "pa": "GURMUKHI",
    "ta": "TAMIL", "te": "TELUGU", "th": "THAI", "ko": "HANGUL", "ja": "HIRAGANA", "zh": "CJK", "ru": "CYRILLIC",
    "bg": "CYRILLIC", "uk": "CYRILLIC", "el": "GREEK",
}  # fmt: skip
COMMON = {
    "en": "the of and to in is that it was for on with as are this be",
    "es": "el la de que y en los se un por con una para es las del",
    "fr": "le la les de et des en un une est que pour dans du qui",
    "de": "der die und das ist in zu den mit nicht ein eine von auf es",
    "pt": "o a de que e do da em um para com não uma os no na",
    "it": "il di che e la un per è una non sono con del della i",
    "fi": "ja on ei se että hän oli mutta kun niin olen sen tämä",
    "sw": "na ya wa kwa ni za katika la cha kuwa hii yake kama",
    "vi": "và của là có trong cho được một các những không với",
    "nl": "de het een en van is dat op te in niet voor met",
    "tr": "ve bir bu da için ile çok olarak daha gibi",
    "pl": "i w na z się nie do to że jest",
}


def language(text: str) -> str:
    """The likeliest language: by script, and of Latin letters by the most frequent words."""
    letters = Counter(unicodedata.name(c, "?").partition(" ")[0] for c in text if c.isalpha())
    script = letters.most_common(1)[0][0] if letters else "LATIN"
    if script in ("HIRAGANA", "KATAKANA") or (script == "CJK" and letters["HIRAGANA"] * 5 > letters["CJK"]):
        return "ja"
    if script == "ARABIC":
        return "ur" if re.search("[ٹڈڑںے]", text) else "fa" if re.search("[پچژگ]", text) else "ar"
    if script in SCRIPTS.values():
        return next(code for code, name in SCRIPTS.items() if name == script)
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    return max(COMMON, key=lambda code: sum(words[word] for word in COMMON[code].split()))
