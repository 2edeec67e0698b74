"""GGUF: models in one file, their weights in blocks of few bits (llama.cpp's format).

config, params, source = load(Path("model.gguf"))
save(Path("other.gguf"), config, params, source, vocabulary, "Q8_0")
dequantize(raw, "Q4_K")
"""

from jaxlm.convert.gguf.file import GGUF, Entry, write
from jaxlm.convert.gguf.load import load
from jaxlm.convert.gguf.save import save
from jaxlm.ops.blocks import dequantize, quantize

__all__ = ["GGUF", "Entry", "dequantize", "load", "quantize", "save", "write"]
