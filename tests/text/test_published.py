"""Published vocabularies give the ids of their own libraries, on real texts in many languages."""

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from jaxlm.text import load_tokenizer

MODELS = ["llama2_tokenizer.model", "mistral_v1_tokenizer.model", "sp_ja.model", "sp_unigram_1k.model"]


@pytest.mark.parametrize("name", MODELS)
def test_sentencepiece_models(shared: Path, languages: dict[str, str], name: str) -> None:
    path = shared / "data/tokenizers" / name
    tokenizer, library = load_tokenizer(path), SentencePieceProcessor(model_file=str(path))
    texts = list(languages.values())
    assert len(texts) > 12
    assert tokenizer.encode_batch(texts) == library.encode(texts)
    for text in texts:
        ids = tokenizer.encode(text[:5000])
        assert tokenizer.decode(ids) == library.decode(ids)
        assert tokenizer.encoding(text[:5000]).tokens == library.encode(text[:5000], out_type=str)
