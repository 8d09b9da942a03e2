"""The tool loop, as a generator of steps: what the runtime does between a question and its answer.

The generator does no input or output of its own. It hands out a step, and whoever drives it sends back what the step
asks for: a model's reply to a "request", a tool's result to a "call". So one loop serves the playground (a person may
play the tool), the scorer (many visits advance together, in batches) and any server.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace

from helpers.agentfabric import MAX_TURNS, Call, cut_at_stop, first_request, next_request, read_calls


@dataclass(frozen=True)
class Step:
    """One step of a visit.

    kind: "request" (send the reply to `messages`), "call" (send the result of `call`; `text` is the whole reply it was
    read from), "answer" (`text` is the final answer, the visit is over) or "gave_up" (turn limit reached, over).
    raw: the reply as it came, before it was cut at a stop word; finished: whether it ended by itself, not at the
    token limit. result: the observation sent for a "call", filled in the transcripts of `run` and `run_batch`.
    """

    kind: str
    text: str = ""
    messages: tuple = ()
    call: Call | None = None
    raw: str = ""
    finished: bool = True
    result: str | None = None


def visit(tools: list[dict], query: str, *, max_turns: int = MAX_TURNS, **prompt) -> Generator[Step, str, None]:
    """One user turn through AgentFabric's loop (ModelScope-Agent `agents/role_play.py`, OpenAI path).

    Args:
        tools: OpenAI function schemas the model may call.
        query: the user's words, without prefix.
        max_turns: requests to the model before giving up; the runtime's own limit is 10.
        prompt: `instruction`, `history`, `wording`, `role`, `knowledge`, as for `agentfabric.first_request`.
    """
    messages = first_request(tools, query, **prompt)
    for _ in range(max_turns):
        raw = yield Step("request", messages=tuple(messages))
        reply, finished = cut_at_stop(raw), getattr(raw, "finished", True)
        calls = read_calls(reply)
        if not calls:
            yield Step("answer", reply, raw=str(raw), finished=finished)
            return
        result = yield Step("call", reply, call=calls[0], raw=str(raw), finished=finished)
        messages = next_request(messages, reply, result)
    yield Step("gave_up")


def run(tools: list[dict], query: str, ask: Callable[[list], str], execute: Callable[[Call], str],
        **prompt) -> list[Step]:
    """Drive one visit to its end; the transcript is its "call" steps (with results) and its last step.

    Args:
        ask: the model: messages → reply.
        execute: the tools: call → result text.
    """
    return run_batch([(visit(tools, query, **prompt), execute)], lambda requests: [ask(requests[0])])[0]


def run_batch(visits: Iterable[tuple[Generator, Callable[[Call], str]]],
              ask: Callable[[list[list[dict]]], list[str]]) -> list[list[Step]]:
    """Drive many visits together: all open requests go to the model as one batch, round after round.

    Args:
        visits: pairs of a `visit` generator and the function that executes its calls.
        ask: the model: a list of message lists → a list of replies in the same order.

    Returns:
        one transcript per visit, as `run` returns it.
    """
    visits = list(visits)
    transcripts = [[] for _ in visits]
    open_steps = {i: next(loop) for i, (loop, _) in enumerate(visits)}
    while open_steps:
        replies = ask([list(step.messages) for step in open_steps.values()])
        for i, reply in zip(list(open_steps), replies, strict=True):
            step = _advance(*visits[i], reply, transcripts[i])
            if step is None:
                del open_steps[i]
            else:
                open_steps[i] = step
    return transcripts


def _advance(loop: Generator, execute: Callable[[Call], str], reply: str, transcript: list[Step]) -> Step | None:
    """Send one reply, execute the call it holds if any; the next request, or None at the end of the visit."""
    step = loop.send(reply)
    if step.kind == "call":
        result = execute(step.call)
        transcript.append(replace(step, result=result))
        step = loop.send(result)
    if step.kind == "request":
        return step
    transcript.append(step)
    return None
