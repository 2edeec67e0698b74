"""What a run has to read, in a few lines: documents, tokens, epochs, and what was passed over."""

from collections.abc import Sequence

from jaxlm.data import files
from jaxlm.data.dataset import Dataset
from jaxlm.data.shards import Shards


def summary(dataset: Dataset, rows: int) -> str:
    """The data of a run that trains on `rows` rows: a line a source, what a folder or glob has beside, the held-out."""
    config = dataset.config
    total = sum(source.weight for source in config.sources)
    lines = []
    for source, shards in zip(config.sources, dataset.train):
        share = source.weight / total
        epochs = rows * share / ((shards.tokens - 1) // config.T)
        mixed = f", {share:.3g} of the mixture" if len(config.sources) > 1 else ""
        lines.append(f"{source.path}: {_counts([shards])} to train on{mixed}; {epochs:.3g} epochs in this run")
        if skipped := files.find(source.path).skipped:
            lines.append(f"{source.path}: {sum(skipped.values()):,} files passed over ({files.listed(skipped)})")
    return "\n".join([*lines, f"held out: {_counts(dataset.heldout)}"])


def _counts(splits: Sequence[Shards]) -> str:
    documents, tokens = sum(shards.documents for shards in splits), sum(shards.tokens for shards in splits)
    return f"{documents:,} document{'s' * (documents != 1)}, {tokens:,} tokens"
