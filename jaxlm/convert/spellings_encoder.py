"""What a config.json may say of an encoder, under the keys of all families: each reads those it knows."""

from typing import Any

from jaxlm.convert.spellings import ACTIVATIONS
from jaxlm.models import EncoderConfig, MaskedHead, ReplacedHead, SequenceHead, SpanHead, TokenHead, layers
from jaxlm.nn import BigBirdConfig, BlockConfig, LongformerConfig, MLPConfig, SharedConfig

KINDS = {
    type(None): "Model",
    MaskedHead: "ForMaskedLM",
    ReplacedHead: "ForPreTraining",
    SequenceHead: "ForSequenceClassification",
    TokenHead: "ForTokenClassification",
    SpanHead: "ForQuestionAnswering",
}


def spelling(config: EncoderConfig, architecture: str) -> dict[str, Any] | None:
    """The keys, for the class `architecture` of the family's masked tokens. None where it has layers of a kind that no
    family has."""
    found = [layer.config for layer in layers(config)]
    groups = {block.times for block in found if isinstance(block, SharedConfig)}
    if groups and not (len(groups) == 1 and all(isinstance(block, SharedConfig) for block in found)):
        return None
    blocks = [getattr(block, "layer", block) for block in found]
    if not all(isinstance(block, BlockConfig) and isinstance(block.ffn, MLPConfig) for block in blocks):
        return None
    block, mixer, positions = blocks[0], blocks[0].mixer, config.positions
    name = lambda activation: ACTIVATIONS.get(activation, activation)
    offset = getattr(positions, "offset", 0)
    head = config.head
    return {
        **of_head(config, architecture),
        "vocab_size": config.V,
        **dict.fromkeys(("hidden_size", "dim"), config.D),
        **dict.fromkeys(("num_hidden_layers", "n_layers"), len(blocks) * max(groups, default=1)),
        "num_hidden_groups": len(blocks),
        **dict.fromkeys(("num_attention_heads", "n_heads"), getattr(mixer, "H", None)),
        **dict.fromkeys(("intermediate_size", "hidden_dim"), block.ffn.F),
        **dict.fromkeys(("hidden_act", "activation"), name(block.ffn.activation)),
        "layer_norm_eps": getattr(block.norm_sum, "eps", None),
        "type_vocab_size": config.types or None,
        "embedding_size": config.embed_width or config.D,
        "max_position_embeddings": None if positions is None else getattr(positions, "length", 0) + offset,
        "pad_token_id": offset - 1 if offset else 0,
        "tie_word_embeddings": head.tied if isinstance(head, MaskedHead) else True,
        "attention_window": [2 * getattr(b.mixer, "reach", 0) for b in blocks]
        if isinstance(mixer, LongformerConfig)
        else None,
        "attention_type": "block_sparse" if isinstance(mixer, BigBirdConfig) else "original_full",
        "block_size": getattr(mixer, "C", None),
        "num_random_blocks": getattr(mixer, "random", None),
        "rescale_embeddings": config.embed_scale != 1,
    }


def of_head(config: EncoderConfig, architecture: str) -> dict[str, Any]:
    """The class that has this head, and the names of its labels."""
    head, labels = config.head, getattr(config.head, "labels", None)
    kind = "ForPreTraining" if config.next_sentence and isinstance(head, MaskedHead) else KINDS.get(type(head), "")
    kind = "ForNextSentencePrediction" if config.next_sentence and head is None else kind
    return {
        "architectures": [architecture.removesuffix("ForMaskedLM") + kind],
        "id2label": None if labels is None else {str(i): label for i, label in enumerate(labels)},
    }
