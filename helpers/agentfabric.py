"""AgentFabric's wire format: write a prompt, read a reply, feed a result back.

Training rows, served prompts and scored prompts all come from here. So a tuned model is asked with
exactly the text that it was trained on. The module knows no model. Source of every string:
ModelScope-Agent 0.7.1 and 0.7.2 (Apache-2.0), `agents/role_play.py`, `tools/base.py` and
`llm/utils/function_call_with_raw_prompt.py`.

A canonical row, which every data set is read into, is `{"id", "tools", "messages"}`: OpenAI
schemas, and messages of the roles user, tool_call (JSON text of `{"name", "arguments"}`),
tool_response and assistant. It may also hold `instruction` (the role prompt), `role`, `knowledge`.
"""

import json
import re
from dataclasses import dataclass

import json5

WORDING = "0.7.2"  # of ModelScope-Agent; the original recipes saw the wording of "0.7.1"
STOP_WORDS = ("Observation:", "Observation:\n")  # sent with every request
MAX_TURNS = 10  # model requests per user turn before the runtime gives up
DEFAULT_INSTRUCTION = {"zh": "你是一个乐于助人的助手。", "en": "You are a helpful assistant."}

# The strings below are protocol: change none of them.
_TOOLS = {
    "zh": "\n# 工具\n\n## 你拥有如下工具：\n\n{tools}\n\n"
    "## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，可以根据需求调用零次或多次：\n\n"
    "工具调用\nAction: 工具的名称，必须是[{names}]之一\nAction Input: 工具的输入\n"
    "Observation: <result>工具返回的结果</result>\nAnswer: {answer}\n\n",
    "en": "\n# Tools\n\n## You have the following tools:\n\n{tools}\n\n"
    "## When you need to call a tool, please intersperse the following tool command in your reply. "
    "You can call zero or more times according to your needs:\n\n"
    "Tool Invocation\nAction: The name of the tool, must be one of [{names}]\n"
    "Action Input: Tool input\nObservation: <result>Tool returns result</result>\n"
    "Answer: {answer}\n\n",
}
_ANSWER = {
    ("zh", "0.7.1"): "根据Observation总结本次工具调用返回的结果，如果结果中出现url，"
    "请使用如下格式展示出来：![图片](url)",
    ("zh", "0.7.2"): "根据Observation总结本次工具调用返回的结果。如果结果中出现url，"
    "请严格遵循Observation中url的格式进行展示。",
    ("en", "0.7.1"): "Summarize the results of this tool call based on Observation. "
    "If the result contains url, please display it in the following format:![Image](URL)",
    ("en", "0.7.2"): "Summarize the results of this tool call based on Observation.",
}
_TOOL = {
    "zh": "{name}: {name} API。{description} 输入参数: {parameters}",
    "en": "{name}: {name} API. {description} Parameters: {parameters}",
}
_KNOWLEDGE = {"zh": "\n\n# 知识库\n\n{text}\n\n", "en": "\n\n# Knowledge Base\n\n{text}\n\n"}
_INSTRUCTION = {
    "zh": "\n# 指令\n\n{text}\n\n请注意：你具有图像和视频的展示能力，也具有运行代码的能力，"
    "不要在回复中说你做不到。\n",
    "en": "\n#Instructions\n\n{text}\n\nNote: you have the ability to display images and videos, "
    "as well as the ability to run code. Don't say you can't do it.\n",
}
_ROLE = {"zh": "你正在扮演{role}", "en": "You are playing as {role}"}
_MAY_USE = {"zh": "。你可以使用工具：[{names}]", "en": ". you can use tools: [{names}]"}
_READ = {"zh": "。请查看前面的知识库", "en": ". Please read the knowledge base at the beginning"}
# What the runtime cuts off, in characters (agents/role_play.py). An observation gets half of the
# client's 6,000 when it goes back to the model, less 12 for the frame around it.
KNOWLEDGE_LIMIT, OBSERVATION_LIMIT = 4000, 2988
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_CALL = re.compile(r"Action: (.+)\nAction Input: (.+)")  # the runtime's own pattern


class Unreadable(ValueError):
    """A row that cannot be read without loss; the message is a reason short enough to count by."""


@dataclass(frozen=True)
class Call:
    """One tool call as the model wrote it: the tool's `name` and its `arguments` as text."""

    name: str
    arguments: str


def language_of(text: str) -> str:
    """The runtime's rule: "zh" where `text` holds a Chinese character, else "en"."""
    return "zh" if _CHINESE.search(text) else "en"


def json_text(value: object) -> str:
    """JSON text as the runtime writes it, with Chinese characters as they are."""
    return json.dumps(value, ensure_ascii=False)


def function_of(tool: dict) -> dict:
    """A tool's `{name, description, parameters}`, with or without OpenAI's wrap around it."""
    return tool.get("function", tool)


def tool_names(tools: list[dict]) -> str:
    """The names as AgentFabric lists them: joined by a bare comma, unquoted."""
    return ",".join(function_of(tool)["name"] for tool in tools)


def describe_tool(tool: dict) -> str:
    """One tool as one line of the prompt, in the language of the tool's own description."""
    function = function_of(tool)
    name, description = function["name"], function.get("description", "")
    parameters = json_text(function["parameters"])
    words = {"name": name, "description": description, "parameters": parameters}
    return (
        _TOOL[language_of(description)].format(**words) + " Format the arguments as a JSON object."
    )


def system_prompt(
    tools: list[dict], instruction: str, language: str, *, wording: str = WORDING, knowledge=""
) -> str:
    """AgentFabric's system message: knowledge, tools, instruction, in this order.
    `language` is "zh" or "en", `wording` a version of ModelScope-Agent, "0.7.1" or "0.7.2". With no
    tools the block is still written, as the runtime does. ValueError: unknown wording or language.
    """
    if (language, wording) not in _ANSWER:
        raise ValueError(f"no wording {(language, wording)}; choose one of {sorted(_ANSWER)}")
    head = _KNOWLEDGE[language].format(text=knowledge[:KNOWLEDGE_LIMIT]) if knowledge else ""
    lines = "\n\n".join(map(describe_tool, tools))
    block = tools_block(lines, tool_names(tools), language, wording)
    return head + block + _INSTRUCTION[language].format(text=instruction)


def tools_block(lines: str, names: str, language: str, wording: str = WORDING) -> str:
    """The prompt's part on tools, from their lines and the list of their names as text."""
    return _TOOLS[language].format(tools=lines, names=names, answer=_ANSWER[language, wording])


def query_prefix(tools: list[dict], language: str, *, role: str = "", knowledge=False) -> str:
    """The bracket that stands before the newest query: role, tools, knowledge."""
    named = _ROLE[language].format(role=role) if role else ""
    listed = _MAY_USE[language].format(names=tool_names(tools))
    return f"({named}{listed}{_READ[language] if knowledge else ''})"


def user_message(
    tools: list[dict], query: str, *, history: list[dict] = (), role="", knowledge: str = ""
) -> tuple[str, dict]:
    """The prompt's language and the user message of a turn's first request, prefix and query.

    The language is Chinese if query, history or knowledge hold a Chinese character, else English.
    """
    earlier = [message["content"] for message in history]
    language = language_of("".join([query, *earlier, knowledge or ""]))
    prefix = query_prefix(tools, language, role=role, knowledge=bool(knowledge))
    return language, {"role": "user", "content": prefix + query}


def first_request(
    tools: list, query: str, *, instruction="", history=(), wording=WORDING, role="", knowledge=""
) -> list[dict]:
    """The messages of a user turn's first request: system, earlier turns, the prefixed query.
    `history` holds messages: user turns without prefix, assistant turns with their whole trace."""
    language, message = user_message(tools, query, history=history, role=role, knowledge=knowledge)
    instruction = instruction or DEFAULT_INSTRUCTION[language]
    system = system_prompt(tools, instruction, language, wording=wording, knowledge=knowledge)
    return [{"role": "system", "content": system}, *history, message]


def render_call(name: str, arguments: dict) -> str:
    """A tool call as a model should write it, ending with the JSON. So it reads the same on servers
    that strip the stop word (vLLM) and on servers that keep it (`swift deploy`)."""
    return f"Action: {name}\nAction Input: {json_text(arguments)}"


def render_observation(result: str) -> str:
    """A tool result as the runtime feeds it back."""
    return f"\nObservation: <result>{result}</result>\nAnswer:"


def next_request(messages: list[dict], reply: str, result: str) -> list[dict]:
    """The request after a tool call on the OpenAI path: reply and result are appended to the USER
    message, the result cut at OBSERVATION_LIMIT. The model then answers in a new assistant turn."""
    *head, user = messages
    fed_back = reply + render_observation(result[:OBSERVATION_LIMIT])
    return [*head, {**user, "content": user["content"] + fed_back}]


def cut_at_stop(text: str) -> str:
    """The reply up to the first stop word, as a server that strips stop words would return it."""
    return text.split(STOP_WORDS[0], 1)[0]


def read_calls(reply: str) -> list[Call]:
    """Every call the runtime's regex finds in a reply; the runtime runs only the first."""
    return [Call(*found) for found in _CALL.findall(reply)]


def parse_arguments(text: str) -> object:
    """Arguments as the runtime reads them: json5, which takes single quotes; else ValueError."""
    return json5.loads(text)


def call_message(name: str, arguments: dict) -> dict:
    """The canonical tool_call message. Unreadable if half a surrogate pair is in the arguments."""
    content = json_text({"name": name, "arguments": arguments})
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise Unreadable("a call's arguments are not Unicode text") from None
    return {"role": "tool_call", "content": content}


def calls_of(messages: list[dict]) -> list[dict]:
    """The `{"name", "arguments"}` objects of a row's tool_call messages, in order."""
    return [json.loads(one["content"]) for one in messages if one["role"] == "tool_call"]
