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

import openai
from tqdm.auto import tqdm

from helpers import assets
from helpers.agentfabric import STOP_WORDS
from helpers.profiles import Profile, check_device, dtype_of


class Reply(str):
    """A reply's text; `finished` is False where it was cut at the token limit."""

    finished: bool = True


class Model:
    """A profile's model, loaded when first asked. Adapters are merged: so they cost no time."""

    def __init__(self, profile: Profile):
        self.profile = profile
        # ms-swift's engine by adapter. A CPU's memory holds base and tuned model, a GPU's maybe not
        self.engine = lru_cache(maxsize=2 if profile.device == "cpu" else 1)(self._load)

    def ask(self, requests, adapter=None, progress="", max_new_tokens=None) -> list[Reply]:
        """Greedy replies to AgentFabric requests, in their order.

        requests: lists of {"role", "content"} messages, each ending in a user message. adapter: a
        checkpoint folder; None asks the base model. progress: label of a progress bar, if any.
        max_new_tokens: limit of a reply; None takes the profile's. Raises KitError: model or GPU
        cannot be had, or the adapter folder holds none.
        """
        from swift import InferRequest, RequestConfig

        engine = self.engine(str(adapter) if adapter else None)
        limit = max_new_tokens or self.profile.max_new_tokens
        config = RequestConfig(max_tokens=limit, temperature=0, stop=[STOP_WORDS[0]])
        # like lengths together need little padding; longest first, so that the bar gets no slower
        length = [sum(len(message["content"]) for message in request) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: -length[i])
        replies, size = [Reply()] * len(requests), self.profile.batch_size
        with tqdm(total=len(order), desc=progress, unit="reply", disable=not progress) as bar:
            for batch in (order[start : start + size] for start in range(0, len(order), size)):
                asked = [InferRequest(messages=requests[i]) for i in batch]
                answers = engine.infer(asked, config, use_tqdm=False)
                for i, answer in zip(batch, answers, strict=True):
                    replies[i] = Reply(answer.choices[0].message.content)
                    replies[i].finished = answer.choices[0].finish_reason != "length"
                bar.update(len(batch))
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
        from swift import TransformersEngine, get_model_processor, get_template
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
        size = profile.batch_size
        return TransformersEngine(model.eval(), template=template, max_batch_size=size)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint."""

    url: str  # ending in /v1
    names: dict  # what `ask` gets as adapter → the name it is served under; None: the base model
    max_new_tokens: int = 256
    timeout: float = 300  # seconds for one reply, including its wait for others
    parallel: int = 8  # requests under way at once
    api_key: str = "EMPTY"  # servers on this machine need none

    def ask(self, requests, adapter=None, progress="", max_new_tokens=None) -> list[Reply]:
        """As `Model.ask`; a reply may end with the stop word or not: `agentfabric.cut_at_stop`.
        Raises KitError at the first answer that fails or is malformed; no more are asked then.
        """
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
