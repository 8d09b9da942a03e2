"""Lines of the recorder → visits: which requests belong to one user turn."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic_core import from_json, to_json

from helpers.agentfabric import render_observation
from helpers.canonical import Unreadable
from helpers.recorded_turns import OBSERVATION


@dataclass(frozen=True)
class SetAside:
    """Recordings that gave no row: their 1-based `lines` in the file, the `reason`, and the last `recording`."""

    lines: tuple[int, ...]
    reason: str
    recording: object


@dataclass(eq=False)
class Visit:
    """A user turn as recorded: the first request's `messages`, (reply, result) pairs, the last reply and its end; then
    the visit of the turn `before` it, and its `row` if it is good."""

    messages: list[dict]
    reply: str
    reason: str | None  # finish_reason
    lines: list[int]
    recording: dict
    pairs: list[tuple[str, str]] = field(default_factory=list)
    before: "Visit | None" = None
    row: dict | None = None

    @property
    def trace(self) -> str:
        """All replies and results in one text, as the app keeps them in its history."""
        return "".join(reply + render_observation(result) for reply, result in self.pairs) + self.reply

    @property
    def all_lines(self) -> tuple[int, ...]:
        return (*(self.before.all_lines if self.before else ()), *self.lines)


def visits_in(lines: Iterable[str | bytes]) -> tuple[list[Visit], list[SetAside]]:
    """Recordings → visits, in the order of their first requests. A request belongs to the open visit whose user message
    it carries on: with that visit's reply and a result."""
    visits, aside, open_visits = [], [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            recording = _recording(line)
        except Unreadable as problem:
            text = line if isinstance(line, str) else line.decode("utf-8", "replace")
            aside.append(SetAside((number,), str(problem), text))
            continue
        messages = [{"role": one["role"], "content": one["content"]} for one in recording["request"]["messages"]]
        reply, waiting = recording["reply"]["choices"][0], open_visits.setdefault(to_json(messages[:-1]), {})
        said, reason = reply["message"]["content"], reply.get("finish_reason")
        visit, result = _carried_on(waiting, messages[-1]["content"])
        if visit:
            visit.pairs.append((visit.reply, result))
            visit.reply, visit.recording = said, recording
            visit.reason = reason if visit.reason == "stop" else visit.reason
            visit.lines.append(number)
        else:
            visit = Visit(messages, said, reason, [number], recording)
            visits.append(visit)
        waiting[messages[-1]["content"] + said] = visit
    return visits, aside


def _carried_on(waiting: dict[str, Visit], content: str) -> tuple[Visit | None, str]:
    """The open visit that a user message carries on, closed now, and the result that was added to it."""
    for before in waiting:
        if content.startswith(before):
            found = OBSERVATION.fullmatch(content, len(before))
            if found:
                return waiting.pop(before), found[1]
    return None, ""


def _recording(line: str | bytes) -> dict:
    """A line of the recorder that holds a request of messages and its reply.

    Raises:
        Unreadable: it does not.
    """
    try:
        recording = from_json(line)
        status, reply = recording["status"], recording["reply"]
        if status != 200 or "error" in reply:
            raise Unreadable(f"the server answered with an error (HTTP {status})")
        texts = [text for one in recording["request"]["messages"] for text in (one["role"], one["content"])]
        texts.append(reply["choices"][0]["message"]["content"])
        if len(texts) < 5 or not all(isinstance(text, str) for text in texts):
            raise Unreadable("not a chat of texts with a system message")
    except Unreadable:
        raise
    except (ValueError, KeyError, TypeError, IndexError):
        raise Unreadable("not a line of the recorder") from None
    return recording
