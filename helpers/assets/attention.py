"""Attention by what is really needed: "shared_prefix" to train packs, "grouped" to write replies.

Both do what PyTorch's own attention (sdpa) does, in fewer steps. Importing this registers them with
transformers, as names for `attn_implementation`.
"""

from itertools import pairwise

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PIECE = 128  # tokens of a prefix that attend at once


def visible(branches: list[int], length: int | None = None) -> torch.Tensor:
    """Which token (row) sees which (column), as booleans of shape (length, length): earlier ones
    and itself, of the prefix (0) and of its own branch. Beyond the branches stands padding."""
    padding = [-1] * ((length or len(branches)) - len(branches))
    of = torch.tensor(branches + padding)
    return ((of[None] == 0) | (of[None] == of[:, None])).tril()


def shared_prefix_attention(module, query, key, value, mask, starts=None, **options):
    """PyTorch's attention (sdpa), but nothing is compared only to be masked: a branch meets the
    prefix and itself, and a piece of the prefix what stands before it. The cost of a long pack then
    grows with its length, not with the square of it.

    query, key, value: (batch, heads, tokens, width). starts: where each branch begins; without it
    (other rows, several packs at once) this is sdpa.
    """
    if not starts:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    prefix, parts = starts[0], []
    for start, end in pairwise([*range(0, prefix, PIECE), *starts, query.shape[2]]):
        seen = [slice(end)] if end <= prefix else [slice(prefix), slice(start, end)]
        keys, values = (torch.cat([one[:, :, s] for s in seen], 2) for one in (key, value))
        own = torch.cat([mask[:, :, start:end, s] for s in seen], 3)
        asked = query[:, :, start:end]
        if query.device.type == "cpu":
            parts.append(short_attention(asked, keys, values, own, options["scaling"]))
        else:
            parts.append(sdpa_attention_forward(module, asked, keys, values, own, **options)[0])
    return torch.cat(parts, 1), None


def short_attention(query, key, value, mask, scaling: float) -> torch.Tensor:
    """Attention of a few tokens as plain matrix products; the result is (batch, tokens, heads,
    width). On a CPU that takes half the time of PyTorch's fused kernel and its backward. Some heads
    share keys and values (3 do in SmolLM2): they are stacked as if they were so many tokens."""
    batch, heads, tokens, size = query.shape
    groups = batch * key.shape[1]
    stacked = (query * scaling).reshape(groups, -1, size)
    bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    bias = bias.expand(batch, heads, -1, -1).reshape(groups, -1, mask.shape[-1])
    scores = torch.baddbmm(bias, stacked, key.flatten(0, 1).transpose(1, 2))
    found = torch.bmm(scores.softmax(-1), value.flatten(0, 1))
    return found.reshape(batch, heads, tokens, size).transpose(1, 2)


def grouped_attention(module, query, key, value, attention_mask, **options):
    """transformers' attention, but cheaper for one new token. Some heads share keys and values
    (3 do in SmolLM2). The general code copies those for each of them; with one token a row, heads
    that share can stand in one tensor as if they were so many tokens: the same sums, no copies."""
    rows, heads, tokens, size = query.shape
    if tokens > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    query = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    attend, scale = torch.nn.functional.scaled_dot_product_attention, options["scaling"]
    found = attend(query, key, value, attn_mask=attention_mask, scale=scale)
    return found.reshape(rows, 1, heads, size), None


ALL_ATTENTION_FUNCTIONS.register("shared_prefix", shared_prefix_attention)
ALL_ATTENTION_FUNCTIONS.register("grouped", grouped_attention)
for _name in ("shared_prefix", "grouped"):
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, sdpa_mask)
