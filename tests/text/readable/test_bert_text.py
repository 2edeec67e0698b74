import pytest
from tokenizers import normalizers, pre_tokenizers

from jaxlm.errors import UserError
from jaxlm.text import BertNormalizer
from jaxlm.text.readable.bert_text import cut, cut_spans

# Every character of the first two planes, and of the others where something is special.
PLANES = [*range(0xD800), *range(0xE000, 0x20100), 0x2A6DF, 0x2A700, 0x2B820, 0x2B920, 0x2F800, 0x2FA1F, 0x323AF]
CHARACTERS = [chr(code) for code in [*PLANES, 0xE0001, 0xE0020, 0xE007F, 0xE0100, 0xF0000, 0x10FFFD, 0x10FFFF]]
FLAGS = [(True, None, True, True), (False, None, True, True), (True, False, False, True), (False, True, True, False)]


@pytest.mark.parametrize(("lowercase", "accents", "chinese", "clean"), FLAGS)
def test_every_character_becomes_what_the_library_makes_of_it(
    lowercase: bool, accents: bool | None, chinese: bool, clean: bool
) -> None:
    flags = dict(clean_text=clean, handle_chinese_chars=chinese, strip_accents=accents, lowercase=lowercase)
    library, ours = normalizers.BertNormalizer(**flags), BertNormalizer(lowercase, accents, chinese, clean)
    for start in range(0, len(CHARACTERS), 1000):
        text = "".join(f"a{character}" for character in CHARACTERS[start : start + 1000])  # "a" keeps marks in place
        assert ours(text) == library.normalize_str(text), hex(start)


def test_every_character_cuts_or_not_as_in_the_library() -> None:
    text = "".join(f"a{character}b" for character in CHARACTERS)
    expected = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)
    assert cut(text) == [word for word, _ in expected]
    assert cut_spans(text) == [span for _, span in expected]


def test_the_example_of_the_file() -> None:
    assert cut(BertNormalizer()(" Él dijo:¡Sí!")) == ["el", "dijo", ":", "¡", "si", "!"]
    assert BertNormalizer(lowercase=False)("Él\tΣ\0") == "Él Σ"
    assert BertNormalizer()("ΠΛΣ İ ẞ") == "πλσ i ß"


def test_alignment_tells_where_each_character_came_from() -> None:
    normal, source = BertNormalizer()("\0É日한"), BertNormalizer().aligned("\0É日한")
    assert source == (normal, [1, 2, 2, 2, 3, 3, 3])
    assert normal == "e 日 \u1112\u1161\u11ab"


def test_json_says_the_same_and_other_normalizers_are_refused() -> None:
    for flags in FLAGS:
        normalizer = BertNormalizer(*flags)
        assert BertNormalizer.from_json(normalizer.to_json(), "x") == normalizer
    for other, kind in (({"type": "NFC"}, "'NFC'"), (None, "None")):
        with pytest.raises(UserError, match=f"x: its normalizer is {kind}, not 'BertNormalizer'"):
            BertNormalizer.from_json(other, "x")
