"""The loop that writes replies: read a prompt once, then append the most likely token, again and
again. What was computed for a prompt is kept, so that a prompt which begins alike costs less.
"""

from collections import OrderedDict
from collections.abc import Iterator

import torch
from transformers import Cache, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import DynamicLayer

import helpers.assets.attention  # noqa: F401  registers "grouped"

KEPT = 16_384  # tokens of computed prompts that a Writer keeps; SmolLM2's take 46 KB each (fp32)


class Layer(DynamicLayer):
    """One layer's keys and values, written into memory that is there from the start: transformers'
    own layer copies everything at each token."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int):
        super().__init__()
        self.keys, self.values, self.used, self.is_initialized = keys, values, used, True

    def update(self, key, value, *args, **kwargs):
        """Append the new tokens' keys and values; returns all of these rows."""
        rows, start, self.used = len(key), self.used, self.used + key.shape[2]
        self.keys[:rows, :, start : self.used] = key
        self.values[:rows, :, start : self.used] = value
        return self.keys[:rows, :, : self.used], self.values[:rows, :, : self.used]

    def get_seq_length(self) -> int:
        return self.used


class Writer:
    """Writes greedy replies with a transformers model. A token that ends a reply is one of the
    model's own, or completes one of `stop_words` in the text."""

    def __init__(self, model, tokenizer, stop_words: list[str]):
        self.model, self.tokenizer, self.stop_words = model.eval(), tokenizer, stop_words
        self.kept = OrderedDict()  # beginning → (tokens, keys and values), the latest used last
        config, ends = model.config.get_text_config(), model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends or tokenizer.eos_token_id])
        self.penalty = model.generation_config.repetition_penalty or 1
        heads = config.num_attention_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.heads = getattr(config, "num_key_value_heads", None) or heads
        self.layers, self.longest = config.num_hidden_layers, config.max_position_embeddings
        if config._attn_implementation == "sdpa":
            model.set_attn_implementation("grouped")

    @torch.inference_mode()
    def write(self, asked: list[tuple], limit: int) -> Iterator[tuple[int, list[int]]]:
        """Yields (prompt's index, the reply's tokens) of each prompt as soon as it is done.

        asked: of each prompt its token ids; a key, which is the same for prompts that probably
        begin alike; and None or a `grammar.Rule`. limit: most tokens of a reply.
        """
        prompts, beginnings, rules = zip(*asked, strict=True)
        width = max(map(len, prompts))
        shape = (self.layers, 2, len(prompts), self.heads, width + limit, self.size)
        memory = torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)
        # 1: a token to look at. 0: padding, which stands before a shorter prompt.
        mask = torch.zeros(len(prompts), width + limit, dtype=torch.long, device=memory.device)
        logits, written, rows = [], [[] for _ in prompts], list(range(len(prompts)))
        for row, prompt in enumerate(prompts):
            # Padding: each prompt ends in the same column, so that all go on in the next one.
            start = width - len(prompt)
            mask[row, start:] = 1
            place = memory[:, :, row : row + 1, :, start:width]
            logits.append(self._read(prompt, beginnings[row], place))
        logits, cache = torch.cat(logits), self._cache(memory, width)
        for column in range(width, width + limit):
            judged = [i for i, row in enumerate(rows) if rules[row] or self.penalty != 1]
            for i in judged:
                row = rows[i]
                logits[i] = self._judged(logits[i], prompts[row] + written[row], rules[row])
            tokens = logits.argmax(-1).tolist()
            for i in reversed(range(len(rows))):
                row = rows[i]
                written[row].append(tokens[i])
                if rules[row]:
                    rules[row].accept(tokens[i])
                longest = min(limit, self.longest - len(prompts[row]))
                if len(written[row]) >= longest or self._ends(written[row]):
                    yield row, written[row]
                    # It leaves the batch at once: the last row moves to its place.
                    last = len(rows) - 1
                    memory[:, :, i], mask[i] = memory[:, :, last], mask[last]
                    rows[i], tokens[i] = rows[last], tokens[last]
                    rows.pop(), tokens.pop()
            if not rows:
                return
            # Positions: padding does not count, so a row's own tokens do.
            positions = [len(prompts[row]) + len(written[row]) - 1 for row in rows]
            tokens, positions = torch.tensor([tokens, positions], device=memory.device)[..., None]
            # Mask: a row sees its prompt and its own reply up to this token, no padding.
            seen = mask[: len(rows), : column + 1]
            logits = self._logits(tokens, cache, position_ids=positions, attention_mask=seen)

    def _read(self, prompt: list[int], beginning, place: torch.Tensor) -> torch.Tensor:
        """Compute a prompt's keys and values into `place`, as far as none that are kept fit; the
        logits of the token after it."""
        tokens, computed = self.kept.get(beginning, ([], None))
        same = 0
        # the last token is computed in any case: its logits are needed
        while same < min(len(prompt) - 1, len(tokens)) and prompt[same] == tokens[same]:
            same += 1
        if same:
            place[..., :same, :] = computed[..., :same, :]
        rest = torch.tensor([prompt[same:]], device=place.device)
        logits = self._logits(rest, self._cache(place, same))
        if computed is None:
            self.kept[beginning] = prompt, place.clone()
        self.kept.move_to_end(beginning)
        while sum(len(tokens) for tokens, _ in self.kept.values()) > KEPT:
            self.kept.popitem(last=False)
        return logits

    def _cache(self, memory: torch.Tensor, used: int) -> Cache:
        return Cache(layers=[Layer(keys, values, used) for keys, values in memory])

    def _logits(self, tokens: torch.Tensor, cache: Cache, **more) -> torch.Tensor:
        """Logits of each row's next token, in float32 as transformers' own loop compares them."""
        given = {"input_ids": tokens, "past_key_values": cache, "logits_to_keep": 1}
        return self.model(**given, **more).logits[:, -1].float()

    def _judged(self, logits: torch.Tensor, before: list[int], rule) -> torch.Tensor:
        """Logits behind the tokens `before`, after the model's own penalty and a grammar's veto."""
        if self.penalty != 1:
            before = torch.tensor([before], device=logits.device)
            logits = RepetitionPenaltyLogitsProcessor(self.penalty)(before, logits[None])[0]
        if rule:
            allowed = rule.allowed(len(logits)).to(logits.device)
            logits = logits.masked_fill(~allowed, -torch.inf)
        return logits

    def _ends(self, written: list[int]) -> bool:
        # 20 tokens hold any stop word; ms-swift decodes as many
        text = self.tokenizer.decode(written[-20:])
        return written[-1] in self.ends or any(word in text for word in self.stop_words)
