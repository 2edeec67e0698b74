"""Weights in and out in Hugging Face's layout: config.json, model.safetensors, and one file of names a family.

    config, params, source = load(Path("folder"))
    save(Path("other"), config, params, source)

A family is a module with `MODEL_TYPES` (values of config.json's "model_type", and the class by which transformers opens
each), `config` (config.json's `Fields` -> the model's) and `NAMES` (see `convert.names`), or `names` (config -> such
a table); and where needed
`DEFAULTS` (what a config.json without these keys means, where null means something else or files leave sizes out),
`SPELLINGS` (other beginnings that names have in some files), `IGNORED` (patterns of tensors that nobody needs; {} is
the number of a layer beyond the last) and `WRAPPERS` (model types whose "text_config" is this model).
An encoder's family has `names` (config -> its table) instead, see `convert.bert_like`.
`convert.families` lists them; there is no other registry. Models of none of them are written as `convert.ours` has it.
"""

from jaxlm.convert.describe import describe
from jaxlm.convert.families import FAMILIES, Source, lm_config
from jaxlm.convert.load import load
from jaxlm.convert.save import save, to_hf

__all__ = ["FAMILIES", "Source", "describe", "lm_config", "load", "save", "to_hf"]
