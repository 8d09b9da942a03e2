"""A grammar that a reply is held to: free text, or one call of an offered tool whose arguments fit
the tool's JSON schema. Which tokens may come next is worked out by llguidance (MIT licence).
"""

import json

import llguidance
import numpy as np
import torch
from llguidance.hf import from_tokenizer

from helpers.assets import KitError

# How Python's json.dumps sets blanks: the rows' calls are written so. Arguments that a schema does
# not name are no arguments of the tool.
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
TEXT = r"TEXT: /(?s:.*)/ & ~/(?s:.*)Action:(?s:.*)/"


def grammar_of(tools: list[dict]) -> str:
    """The grammar of a reply to a prompt that offers these tools (OpenAI schemas), in llguidance's
    dialect of Lark. The stop word may stand behind the call."""
    calls = []
    for tool in tools:
        function = tool.get("function", tool)
        head = json.dumps(f"Action: {function['name']}\nAction Input: ", ensure_ascii=False)
        schema = {"additionalProperties": False, **function["parameters"], "x-guidance": STYLE}
        calls.append(f"{head} %json {json.dumps(schema, ensure_ascii=False)}")
    call = rf'call: ({" | ".join(calls)}) ("\nObservation:")?' if calls else ""
    return "\n".join([f"start: TEXT{' | call' if calls else ''}", TEXT, call])


class Rule:
    """A grammar on its way through one reply."""

    def __init__(self, tokenizer: llguidance.LLTokenizer, tools: list[dict]):
        """KitError: a schema holds what llguidance cannot follow."""
        self.matcher = llguidance.LLMatcher(tokenizer, grammar_of(tools), log_level=0)
        self._check()

    def allowed(self, size: int) -> torch.Tensor:
        """Whether each token of a vocabulary of `size` may come next: bool."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(size, bool)  # a model may have more rows than its tokenizer has tokens
        known = np.unpackbits(bits, bitorder="little")[:size]
        allowed[: len(known)] = known
        return torch.from_numpy(allowed)

    def fits(self, written: list[int]) -> bool:
        """Whether all these tokens may come next, one after the other."""
        fit = self.matcher.validate_tokens(written)
        self._check()
        return fit == len(written)

    def accept(self, token: int) -> None:
        """The token that was written."""
        self.matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self.matcher.is_error():
            reason = self.matcher.get_error().splitlines()[0]
            raise KitError(f"no grammar for these tools: {reason}")


def tokenizer_of(tokenizer, ends: set[int], size: int) -> llguidance.LLTokenizer:
    """A transformers tokenizer as llguidance reads it (takes a second). ends: tokens that end a
    reply. size: how many tokens the model knows."""
    return from_tokenizer(tokenizer, n_vocab=size, eos_token=sorted(ends))
