"""Ask a model: `Model` in this process, `Endpoint` over HTTP, both with the same `ask`.

Requests are messages from `helpers.agentfabric`. ms-swift's chat template turns them into tokens,
the same template that made the training tokens.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import openai
from tqdm.auto import tqdm

from helpers import assets
from helpers.agentfabric import STOP_WORDS
from helpers.profiles import Profile, check_device, dtype_of


class Reply(str):
    """A reply's text; `finished` is False where it was cut at the token limit."""

    finished: bool = True


class Prompt(NamedTuple):
    """A request as the model reads it. inputs: the same, as ms-swift's template keeps it."""

    tokens: list
    inputs: object


class Engine:
    """A loaded `model` with ms-swift's template of its chat format: text to tokens and back."""

    def __init__(self, model, template):
        from helpers.assets.greedy import Writer

        self.model, self.template, self.tokenizer = model, template, template.tokenizer
        template.set_mode("transformers")  # prompts end where the reply begins
        words = [STOP_WORDS[0], *template.template_meta.stop_words]
        self.writer = Writer(model, self.tokenizer, words)
        self._grammar_tokenizer = None  # made when first needed: it takes a second
        self.free = {}  # (prompt's tokens, limit) → what was written without a grammar

    def prompt(self, messages: list) -> Prompt:
        """A request's tokens: the same as in training and behind `swift deploy`. KitError: more
        than the model can read."""
        from swift import InferRequest
        from swift.template import MaxLengthError

        try:
            encoded = self.template.encode(InferRequest(messages), return_template_inputs=True)
        except MaxLengthError as error:
            raise assets.KitError(f"a prompt is too long for this model: {error}") from None
        return Prompt(encoded["input_ids"], encoded["template_inputs"])

    def reply(self, prompt: Prompt, written: list, limit: int) -> Reply:
        """Written tokens as text, read as ms-swift reads them: without the token that ends a turn,
        with a stop word."""
        written = [token for token in written if token != self.tokenizer.pad_token_id]
        text = self.template.decode_generate_ids(written, template_inputs=prompt.inputs)
        reply = Reply(text)
        reply.finished = len(written) < limit
        return reply

    def rule(self, tools: list):
        """The grammar of a reply to a prompt with these tools."""
        from helpers.assets import grammar

        if self._grammar_tokenizer is None:
            size = self.model.config.get_text_config().vocab_size
            self._grammar_tokenizer = grammar.tokenizer_of(self.tokenizer, self.writer.ends, size)
        return grammar.Rule(self._grammar_tokenizer, tools)


class Model:
    """A profile's model, loaded when first asked. Adapters are merged: so they cost no time."""

    def __init__(self, profile: Profile):
        self.profile = profile
        # an Engine by adapter. A CPU's memory holds base and tuned model, a GPU's maybe not
        self.engine = lru_cache(maxsize=2 if profile.device == "cpu" else 1)(self._load)

    def ask(
        self, requests, adapter=None, progress="", max_new_tokens=None, grammar=None
    ) -> list[Reply]:
        """Greedy replies to AgentFabric requests, in their order.

        requests: lists of {"role", "content"} messages, each ending in a user message. adapter: a
        checkpoint folder; None asks the base model. progress: label of a progress bar, if any.
        max_new_tokens: limit of a reply; None takes the profile's. grammar: the tools that each
        request offers (lists of OpenAI schemas, as many as requests); each reply is then free text
        or one call of a tool offered, with arguments that fit its schema. Raises KitError: model or
        GPU cannot be had, the adapter folder holds none, or a prompt or schema cannot be used.
        """
        engine = self.engine(str(adapter) if adapter else None)
        limit = max_new_tokens or self.profile.max_new_tokens
        prompts = [engine.prompt(request) for request in requests]
        beginnings = [repr(request[:-1]) for request in requests]  # system message, earlier turns
        rules = [engine.rule(tools) for tools in grammar] if grammar else [None] * len(requests)
        replies, size = [Reply()] * len(requests), self.profile.batch_size
        keys = [(tuple(prompt.tokens), limit) for prompt in prompts]
        left = set(range(len(requests)))
        for i in [i for i in left if rules[i] and keys[i] in engine.free]:
            if rules[i].fits(written := engine.free[keys[i]]):  # then it would be written again
                replies[i] = engine.reply(prompts[i], written, limit)
                left.remove(i)
        # like lengths together need little padding; longest first, so that the bar gets no slower
        order = sorted(left, key=lambda i: -len(prompts[i].tokens))
        with tqdm(total=len(order), desc=progress, unit="reply", disable=not progress) as bar:
            for batch in (order[start : start + size] for start in range(0, len(order), size)):
                asked = [(prompts[i].tokens, beginnings[i], rules[i]) for i in batch]
                for row, written in engine.writer.write(asked, limit):
                    replies[batch[row]] = engine.reply(prompts[batch[row]], written, limit)
                    if not rules[batch[row]]:
                        engine.free[keys[batch[row]]] = written
                    bar.update()
        return replies

    def _load(self, adapter: str | None):
        if adapter and not (Path(adapter) / "adapter_config.json").exists():
            raise assets.KitError(f"no adapter in {adapter}: it has no adapter_config.json")
        profile = self.profile
        check_device(profile)
        folder = assets.model_dir(profile.model)
        import torch
        import transformers
        from peft import PeftModel
        from swift import get_model_processor, get_template
        from swift.utils import get_logger

        get_logger().setLevel(logging.ERROR)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        if profile.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # more threads gain nothing with a small model, and lose where another program is busy
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        options = {"model_type": profile.model_type, "device_map": profile.device}
        options["torch_dtype"] = getattr(torch, dtype_of(profile))
        model, processor = get_model_processor(str(folder), **options)
        if adapter:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        template = get_template(processor, template_type=profile.template)
        return Engine(model, template)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint."""

    url: str  # ending in /v1
    names: dict  # what `ask` gets as adapter → the name it is served under; None: the base model
    max_new_tokens: int = 256
    timeout: float = 300  # seconds for one reply, including its wait for others
    parallel: int = 8  # requests under way at once
    api_key: str = "EMPTY"  # servers on this machine need none

    def ask(
        self, requests, adapter=None, progress="", max_new_tokens=None, grammar=None
    ) -> list[Reply]:
        """As `Model.ask`; a reply may end with the stop word or not: `agentfabric.cut_at_stop`.
        Raises KitError at the first answer that fails or is malformed; no more are asked then. And
        if asked for a grammar: of the kit's servers only vLLM knows any, and in another form.
        """
        if grammar:
            raise assets.KitError(f"{self.url} cannot hold replies to a grammar: ask a Model")
        if adapter not in self.names:
            raise assets.KitError(f"{self.url} serves no adapter {adapter}: only {self.names}")
        limit = max_new_tokens or self.max_new_tokens
        ask = partial(self._ask_one, self.client(), self.names[adapter], limit)
        bar = partial(tqdm, desc=progress, unit="reply", disable=not progress, total=len(requests))
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(bar(pool.map(ask, requests)))

    def client(self) -> openai.OpenAI:
        """An `openai` client of this endpoint; it repeats a request once if a connection fails."""
        # a proxy from the environment cannot reach a server on this machine
        local = self.url.startswith(("http://127.0.0.1", "http://localhost"))
        http = openai.DefaultHttpxClient(trust_env=not local)
        ask = partial(openai.OpenAI, timeout=self.timeout, max_retries=1, http_client=http)
        return ask(base_url=self.url, api_key=self.api_key)

    def _ask_one(self, client: openai.OpenAI, name: str, limit: int, messages: list) -> Reply:
        greedy = {"temperature": 0, "max_tokens": limit, "stop": list(STOP_WORDS)}
        answer = None
        try:
            answer = client.chat.completions.create(model=name, messages=messages, **greedy)
            choice = answer.choices[0]
            if not isinstance(choice.message.content, str) or choice.finish_reason is None:
                raise ValueError("no text, or no finish_reason")
            reply = Reply(choice.message.content)
            reply.finished = choice.finish_reason != "length"
            return reply
        except openai.APIConnectionError as error:
            cause = f"{error.__cause__ or error} (limit: {self.timeout:g} s)"
            problem = f"gave no answer: {cause}. Has it stopped? See its log. Is it overloaded? "
            problem += "Ask fewer at once (parallel), or allow more time (timeout)."
        except openai.APIStatusError as error:
            problem = f"refused to ask {name!r} (HTTP {error.status_code}): {error.message}"
        except (openai.APIError, ValueError, LookupError, TypeError, AttributeError) as error:
            problem = f"sent an answer that cannot be read ({error}): {str(answer)[:300]}"
        raise assets.KitError(f"{self.url} {problem}")
