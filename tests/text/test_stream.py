import random
import time

from jaxlm.text import SentencePieceTokenizer, TextStream, Tokenizer


def test_pushes_join_to_the_decoded_whole(tokenizer: Tokenizer, trained: dict[str, Tokenizer]) -> None:
    chance = random.Random(1)
    stream = TextStream(tokenizer)
    for _ in range(100):  # the same stream again and again: flush begins anew
        ids = [chance.randrange(tokenizer.V) for _ in range(30)]
        pushed, at = [], 0
        while at < len(ids):
            step = chance.randrange(1, 4)
            pushed.append(stream.push(ids[at : at + step]))
            at += step
        whole, joined = tokenizer.decode(ids), "".join(pushed) + stream.flush()
        assert joined == whole or (tokenizer is trained["fast_unigram"] and "\ufffd" in whole)


def test_a_character_appears_only_when_it_is_whole(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    ids = [tokenizer.pieces.index(bytes([byte])) for byte in "\U0001f600".encode()]
    assert [stream.push([i]) for i in ids] == ["", "", "", "\U0001f600"]
    assert stream.push(ids[:3]) == "" and stream.flush() == "\ufffd" and stream.flush() == ""


def test_special_tokens_are_spelled_or_skipped(tokenizer: Tokenizer) -> None:
    assert TextStream(tokenizer).push([tokenizer.eot]) == "<|endoftext|>"
    assert TextStream(tokenizer, skip_special=True).push([tokenizer.eot]) == ""


def test_the_space_a_foreign_model_adds_is_dropped_once(shared) -> None:
    tokenizer = SentencePieceTokenizer(shared / "data/tokenizers/llama2_tokenizer.model")
    ids = tokenizer.encode("Hello  world", special=True)
    stream = TextStream(tokenizer, skip_special=True)
    for _ in range(2):
        assert "".join(stream.push([i]) for i in ids) + stream.flush() == "Hello  world"


def test_a_push_costs_its_own_tokens_only(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    ids = tokenizer.encode("word ") * 4000

    def seconds() -> float:
        start = time.perf_counter()
        for i in ids[:1000]:
            stream.push([i])
        return time.perf_counter() - start

    first = min(seconds() for _ in range(3))
    stream.push(ids * 20)
    assert min(seconds() for _ in range(3)) < 5 * first
