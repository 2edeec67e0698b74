"""Documents to training batches. No JAX here.

    dataset = prepare(DataConfig(sources=(Source("books/*.txt"),), T=1024))
    with dataset.train_batches(batch=32) as batches:
        for batch in batches: ...

`documents` reads files, `prepare` splits and tokenises them once into a cache, and a `Dataset` is read as endless
shuffled training batches and as finite held-out batches. `pack` says what a batch holds.
"""

from jaxlm.data.baselines import baselines, score_table
from jaxlm.data.config import Data, DataConfig, Source, TokenizerConfig
from jaxlm.data.conversations import Conversations
from jaxlm.data.dataset import Dataset, prepare
from jaxlm.data.embedding_pairs import EmbeddingPairs
from jaxlm.data.labelled import LabelledTexts
from jaxlm.data.pack import Batch, pack
from jaxlm.data.pairs import Synthetic, SyntheticPairs
from jaxlm.data.preferences import Preferences
from jaxlm.data.prepared import Prepared
from jaxlm.data.prompts import Prompts
from jaxlm.data.sentence_pairs import SentencePairs
from jaxlm.data.sources import documents
from jaxlm.data.steps import Steps
from jaxlm.data.summary import summary
from jaxlm.data.synthetic import SyntheticTask
from jaxlm.data.synthetic.files import TaskFile
from jaxlm.data.tagged import TaggedWords
from jaxlm.data.text_pairs import TextPairs

__all__ = [
    "Batch",
    "Conversations",
    "Data",
    "DataConfig",
    "Dataset",
    "EmbeddingPairs",
    "LabelledTexts",
    "Preferences",
    "Prepared",
    "Prompts",
    "SentencePairs",
    "Source",
    "Steps",
    "Synthetic",
    "SyntheticPairs",
    "SyntheticTask",
    "TaggedWords",
    "TaskFile",
    "TextPairs",
    "TokenizerConfig",
    "baselines",
    "documents",
    "pack",
    "prepare",
    "score_table",
    "summary",
]
