"""Ask a model behind an OpenAI-compatible endpoint the way `inference.Model` is asked: the same `ask`, over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import openai
from tqdm.auto import tqdm

from helpers.agentfabric import STOP_WORDS
from helpers.inference import Reply


class EndpointError(RuntimeError):
    """The endpoint gave no usable reply; the message says which endpoint, what came, and what to do."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    url: the address that ends in /v1. names: what `ask` is given as adapter → the name it is served under; the base
    model is under None. max_new_tokens: limit per reply. timeout: seconds to wait for one reply; the time it waits for
    others counts, too. parallel: requests under way at once.
    """

    url: str
    names: dict[str | Path | None, str]
    max_new_tokens: int = 256
    timeout: float = 300
    parallel: int = 8
    api_key: str = "EMPTY"  # servers on this machine ask for none, the client insists on one

    def ask(self, requests: list[list[dict]], adapter: str | Path | None = None, progress: str = "",
            max_new_tokens: int | None = None) -> list[Reply]:
        """Greedy replies to AgentFabric requests, in their order; arguments as for `inference.Model.ask`.

        `swift deploy` leaves the stop word in a reply and vLLM cuts it off; `agentfabric.cut_at_stop` makes them equal.

        Raises:
            EndpointError: no connection, no answer in time, an error or a malformed answer; the rest is not asked.
        """
        if adapter not in self.names:
            raise EndpointError(f"{self.url} has no served name for adapter {adapter}; known: {self.names}")
        ask = partial(self._ask_one, self.client(), self.names[adapter], max_new_tokens or self.max_new_tokens)
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                return list(tqdm(pool.map(ask, requests), desc=progress, total=len(requests), unit="reply",
                                 disable=not progress))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def client(self) -> openai.OpenAI:
        """An `openai` client of this endpoint; it repeats a request once where the connection failed."""
        # a proxy from the environment cannot reach a server on this machine
        local = self.url.startswith(("http://127.0.0.1", "http://localhost"))
        return openai.OpenAI(base_url=self.url, api_key=self.api_key, timeout=self.timeout, max_retries=1,
                             http_client=openai.DefaultHttpxClient(trust_env=not local))

    def _ask_one(self, client: openai.OpenAI, model: str, max_new_tokens: int, messages: list[dict]) -> Reply:
        try:
            answer = client.chat.completions.create(model=model, messages=messages, temperature=0,
                                                    max_tokens=max_new_tokens, stop=list(STOP_WORDS))
        except openai.APITimeoutError:
            raise EndpointError(f"{self.url} gave no answer within {self.timeout:g} s. It may be overloaded: ask fewer "
                                "at once (parallel), or allow more time (timeout).") from None
        except openai.APIConnectionError as error:
            raise EndpointError(f"no connection to {self.url} ({error.__cause__ or error}). The server is not running, "
                                "or has stopped: see the end of its log.") from None
        except openai.APIStatusError as error:
            raise EndpointError(f"{self.url} refused the request to model {model!r} (HTTP {error.status_code}): "
                                f"{error.message}") from None
        except (openai.APIError, ValueError) as error:  # ValueError: a body that is not JSON
            raise EndpointError(f"{self.url} sent an answer that cannot be read: {error}") from None
        return self._reply(answer)

    def _reply(self, answer: object) -> Reply:
        choices = getattr(answer, "choices", None)  # a body in another form arrives here unchecked
        choice = choices[0] if choices else None
        content = getattr(getattr(choice, "message", None), "content", None)
        reason = getattr(choice, "finish_reason", None)
        if not isinstance(content, str) or reason is None:
            raise EndpointError(f"{self.url} sent a malformed answer: expected choices[0] with message.content (text) "
                                f"and finish_reason, got {str(answer)[:300]!r}")
        reply = Reply(content)
        reply.finished = reason != "length"
        return reply
