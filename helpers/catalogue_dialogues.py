"""Write the turns of one authored dialogue, in the text form of iic/ms_agent on ModelScope."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from helpers.catalogue_chains import chain_pools
from helpers.catalogue_format import Domain, Request, Tool, draw, fill, names_in, substitute

THOUGHT_SHARE = 0.3  # of the calls that begin with a thought; ms_agent rows often go straight to the action
TRIES = 200  # redraws before the catalogue is called too small for what is asked

Step = tuple[str, dict, dict]  # tool name, arguments, observation
Turn = tuple[str, str]  # user text, assistant text


@dataclass(frozen=True)
class Scene:
    """What one dialogue is drawn from: the prompt's tools, the rest of the catalogue, the random numbers."""

    domain: Domain
    tools: tuple[Tool, ...]
    others: tuple[Domain, ...]
    chat: tuple[dict, ...]
    phrases: dict
    rng: random.Random

    def fill(self, text: str, values: dict) -> str:
        """`text` with its {names} replaced, in the dialogue's language."""
        return fill(text, values, self.domain.language)


def system_prompt(tools: tuple[Tool, ...]) -> str:
    """The system turn of an ms_agent row; "type" is our addition and stands only where it is not string."""
    described = []
    for number, tool in enumerate(tools, start=1):
        fields = [
            {"name": p.name, "description": p.description, "required": str(p.required)}
            | ({} if p.type == "string" else {"type": p.type})
            for p in tool.parameters
        ]
        described.append(
            f"{number}. {tool.name}: Call this tool to interact with the {tool.name} API. "
            f"What is the {tool.name} API useful for? {tool.description.rstrip('.。')}. "
            f"Parameters: {json.dumps(fields, ensure_ascii=False)}\n\n"
        )
    names = ", ".join(tool.name for tool in tools)
    return (
        "Answer the following questions as best you can. You have access to the following APIs:\n"
        f"{''.join(described)}Use the following format:\n\n"
        "Thought: you should always think about what to do\n"
        f"Action: the action to take, should be one of the above tools[{names}]\n"
        "Action Input: the input to the action\nObservation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\nBegin!"
    )


def write_turn(steps: list[Step], answer: str, scene: Scene) -> str:
    """An assistant turn: each step's action and observation, then the final answer."""
    rng, lines = scene.rng, []
    for number, (name, arguments, result) in enumerate(steps):
        if rng.random() < THOUGHT_SHARE:
            thought = rng.choice(scene.phrases["next" if number else "thought"])
            lines.append(f"Thought: {scene.fill(thought, {'tool': name})}")
        shown = json.dumps(result, ensure_ascii=False) if rng.random() < 0.5 else repr(result)
        lines += [f"Action: {name}", f"Action Input: {arguments!r}", f"Observation: {shown}"]
    return "\n".join([*lines, "Thought: I now know the final answer", f"Final Answer: {answer}"])


def draw_apart(form: object, values: dict, scene: Scene) -> object:
    """A value of `form` that none of `values` already is, so that a trip from A to B has two ends."""
    for _ in range(TRIES):
        value = draw(form, scene.rng, {}, scene.domain.language)
        if not isinstance(value, str) or value not in values.values():
            break
    return value


def draw_arguments(tool: Tool, request: Request, scene: Scene) -> dict:
    """Arguments of one call, in the order of the parameters."""
    arguments: dict = {}
    for parameter in tool.parameters:
        if parameter.name in request.fixed:
            arguments[parameter.name] = request.fixed[parameter.name]
        elif parameter.name in request.names:
            arguments[parameter.name] = draw_apart(parameter.values, arguments, scene)
    return arguments


def draw_result(tool: Tool, arguments: dict, scene: Scene) -> dict:
    """What the tool returns for these arguments: drawn values, and the arguments that it echoes."""
    return {key: draw(form, scene.rng, arguments, scene.domain.language) for key, form in tool.result.items()}


def is_new(names: set[str], values: dict, request: str) -> bool:
    """Whether one of the stated values is not in the request, so that only the observation can give it."""
    stated = [values[name] for name in names]
    parts = [part for value in stated for part in (value if isinstance(value, list) else [value])]
    return any(str(part) not in request for part in parts)


def finish_call(tool: Tool, arguments: dict, user: str, scene: Scene) -> str:
    """The assistant turn that calls `tool` and states what came back."""
    usable = [text for text in tool.answers if names_in(text) <= set(arguments) | set(tool.result)]
    answer = scene.rng.choice(usable)
    drawn = {key for key, form in tool.result.items() if not isinstance(form, str)}
    for _ in range(TRIES):
        result = draw_result(tool, arguments, scene)
        if is_new(names_in(answer) & drawn, result, user):
            return write_turn([(tool.name, arguments, result)], scene.fill(answer, arguments | result), scene)
    raise ValueError(
        f"tool {tool.name}: the result tells nothing that {user!r} does not; give it more values"
    )


def single(scene: Scene, tool: Tool) -> list[Turn]:
    """One request and the call that serves it."""
    request = scene.rng.choice(tool.requests)
    arguments = draw_arguments(tool, request, scene)
    user = scene.fill(request.text, arguments)
    return [(user, finish_call(tool, arguments, user, scene))]


def multi_turn(scene: Scene, tool: Tool) -> list[Turn]:
    """Two or three user turns on the prompt's tools; now and then one of them is small talk."""
    turns = single(scene, tool)
    for _ in range(scene.rng.randint(1, 2)):
        if scene.rng.random() < 0.12:
            turns += chat_turn(scene)
            continue
        for _ in range(TRIES):
            user, reply = single(scene, scene.rng.choice(scene.tools))[0]
            if call_of(reply) not in [call_of(earlier) for _, earlier in turns]:
                turns.append((scene.rng.choice(scene.phrases["follow_up"]) + user, reply))
                break
        else:  # one tool without parameters: the same call twice would give two contradicting results
            turns += chat_turn(scene)
    return turns


def call_of(reply: str) -> str:
    """Tool and arguments of a one-call turn as text; for a turn without a call, its beginning."""
    return reply[max(0, reply.find("Action: ")) :].split("\nObservation: ")[0]


def chain(scene: Scene, item: dict) -> list[Turn]:
    """One request whose later calls use values of earlier observations."""
    rng, language, pools = scene.rng, scene.domain.language, chain_pools(item)
    request = rng.choice(item["request"])
    values: dict = {}
    for name in sorted(names_in(request)):
        values[name] = draw_apart(pools[name], values, scene)
    steps = []
    for number, (tool, forms) in enumerate(item["calls"], start=1):
        ordered = [p.name for p in tool.parameters if p.name in forms]
        arguments = {name: substitute(forms[name], values, language) for name in ordered}
        result = draw_result(tool, arguments, scene)
        values |= {f"{number}.{key}": value for key, value in result.items()}
        steps.append((tool.name, arguments, result))
    answer = scene.fill(rng.choice(item["answer"]), values)
    return [(scene.fill(request, values), write_turn(steps, answer, scene))]


def chat_turn(scene: Scene) -> list[Turn]:
    """Small talk or general knowledge, answered without a call."""
    fitting = [pair for pair in scene.chat if scene.domain.name not in pair.get("not_with", ())]
    pair = scene.rng.choice(fitting)
    return [(pair["question"], write_turn([], pair["answer"], scene))]


def no_tool(scene: Scene, _: Tool) -> list[Turn]:
    """Small talk, or a request that belongs to another domain and is honestly turned down."""
    near = {scene.domain.name, *scene.domain.near}
    far = [d for d in scene.others if d.name not in near and scene.domain.name not in d.near]
    if not far or scene.rng.random() < 0.5:
        return chat_turn(scene)
    tool = scene.rng.choice(scene.rng.choice(far).tools)
    request = scene.rng.choice(tool.requests)
    user = scene.fill(request.text, draw_arguments(tool, request, scene))
    return [(user, write_turn([], scene.rng.choice(scene.phrases["refuse"]), scene))]


def missing(scene: Scene, tool: Tool) -> list[Turn]:
    """A required value is not given: the assistant asks for it and calls nothing."""
    entry = scene.rng.choice(tool.missing)
    arguments = draw_arguments(tool, Request(entry["text"], {}), scene)
    question = write_turn([], scene.fill(entry["ask"], arguments), scene)
    return [(scene.fill(entry["text"], arguments), question)]


def error(scene: Scene, tool: Tool) -> list[Turn]:
    """The tool fails and the assistant says so."""
    request, entry = scene.rng.choice(tool.requests), scene.rng.choice(tool.errors)
    arguments = draw_arguments(tool, request, scene)
    language = scene.domain.language
    result = {key: substitute(form, arguments, language) for key, form in entry["result"].items()}
    reply = write_turn([(tool.name, arguments, result)], scene.fill(entry["answer"], arguments), scene)
    return [(scene.fill(request.text, arguments), reply)]


WRITERS: dict[str, Callable[[Scene, Tool | dict], list[Turn]]] = {
    "single": single,
    "multi_turn": multi_turn,
    "chain": chain,
    "no_tool": no_tool,
    "missing": missing,
    "error": error,
}
