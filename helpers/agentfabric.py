"""AgentFabric's wire format: write a prompt, read a reply, feed a result back.

Source of every string here: ModelScope-Agent (Apache-2.0), modules `agents/role_play.py`, `tools/base.py` and
`llm/utils/function_call_with_raw_prompt.py`, as their tags 0.7.1 and 0.7.2 send it. The text is protocol: a tuned
model only meets at serving time what it saw in training if both come, byte for byte, from the same function.
Training rows, served prompts and scored prompts of this kit all come from this module. It knows no model.
"""

import json
import re
from dataclasses import dataclass

import json5

WORDING = "0.7.2"  # the version of ModelScope-Agent whose wording is used; "0.7.1" is what the seed recipes saw
STOP_WORDS = ("Observation:", "Observation:\n")  # sent with every request
MAX_TURNS = 10  # model requests per user turn before the runtime gives up
DEFAULT_INSTRUCTION = {"zh": "你是一个乐于助人的助手。", "en": "You are a helpful assistant."}

_TOOLS = {
    "zh": "\n# 工具\n\n## 你拥有如下工具：\n\n{tools}\n\n"
    "## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，"
    "可以根据需求调用零次或多次：\n\n"
    "工具调用\nAction: 工具的名称，必须是[{names}]之一\nAction Input: 工具的输入\n"
    "Observation: <result>工具返回的结果</result>\nAnswer: {answer}\n\n",
    "en": "\n# Tools\n\n## You have the following tools:\n\n{tools}\n\n"
    "## When you need to call a tool, please intersperse the following tool command in your reply."
    " You can call zero or more times according to your needs:\n\n"
    "Tool Invocation\nAction: The name of the tool, must be one of [{names}]\nAction Input: Tool input\n"
    "Observation: <result>Tool returns result</result>\nAnswer: {answer}\n\n",
}
_ANSWER = {
    ("zh", "0.7.1"): "根据Observation总结本次工具调用返回的结果，如果结果中出现url，"
    "请使用如下格式展示出来：![图片](url)",
    ("zh", "0.7.2"): "根据Observation总结本次工具调用返回的结果。如果结果中出现url，"
    "请严格遵循Observation中url的格式进行展示。",
    ("en", "0.7.1"): "Summarize the results of this tool call based on Observation. If the result contains url, "
    "please display it in the following format:![Image](URL)",
    ("en", "0.7.2"): "Summarize the results of this tool call based on Observation.",
}
_TOOL = {
    "zh": "{name}: {name} API。{description} 输入参数: {parameters} Format the arguments as a JSON object.",
    "en": "{name}: {name} API. {description} Parameters: {parameters} Format the arguments as a JSON object.",
}
_KNOWLEDGE = {"zh": "\n\n# 知识库\n\n{text}\n\n", "en": "\n\n# Knowledge Base\n\n{text}\n\n"}
_INSTRUCTION = {
    "zh": "\n# 指令\n\n{text}\n\n请注意：你具有图像和视频的展示能力，也具有运行代码的能力，不要在回复中说你做不到。\n",
    "en": "\n#Instructions\n\n{text}\n\nNote: you have the ability to display images and videos, as well as the ability"
    " to run code. Don't say you can't do it.\n",
}
_PREFIX = {
    "zh": ("你正在扮演{role}", "。你可以使用工具：[{names}]", "。请查看前面的知识库", '[上传文件 "{files}"]'),
    "en": ("You are playing as {role}", ". you can use tools: [{names}]",
           ". Please read the knowledge base at the beginning", '[Upload file "{files}"]'),
}
# What the runtime cuts off (agents/role_play.py): knowledge, and an observation when it goes back to the model, which
# gets half of the client's 6,000 less 12 for the frame around it.
KNOWLEDGE_LIMIT, OBSERVATION_LIMIT = 4000, 2988  # characters
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_CALL = re.compile(r"Action: (.+)\nAction Input: (.+)")  # the runtime's own pattern: one line each, one space

# json.dumps(…, ensure_ascii=False) without its set-up time
json_text = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


@dataclass(frozen=True)
class Call:
    """One tool call as the model wrote it: the tool's `name` and the raw text of its `arguments`."""

    name: str
    arguments: str


def language_of(text: str) -> str:
    """`"zh"` where `text` holds a Chinese character, else `"en"`: the runtime's rule for the prompt's language."""
    return "zh" if _CHINESE.search(text) else "en"


def function_of(tool: dict) -> dict:
    """The `{name, description, parameters}` object of a tool, with or without OpenAI's `{"type": "function"}` wrap."""
    return tool.get("function", tool)


def tool_names(tools: list[dict]) -> str:
    """The names as AgentFabric lists them: joined by a bare comma, unquoted."""
    return ",".join(function_of(tool)["name"] for tool in tools)


def describe_tool(tool: dict) -> str:
    """One tool as one line of the prompt; its language follows the tool's own description, not the query."""
    function = function_of(tool)
    description = function.get("description", "")
    parameters = json_text(function["parameters"])
    return _TOOL[language_of(description)].format(
        name=function["name"], description=description, parameters=parameters)


def system_prompt(tools: list[dict], instruction: str, language: str, *, wording: str = WORDING,
                  knowledge: str | None = None) -> str:
    """AgentFabric's system message: knowledge, tools, instruction, in this order.

    Args:
        tools: OpenAI function schemas; with none the tools block is still written, as the runtime does.
        instruction: the role prompt ("You are a weather assistant …").
        language: "zh" or "en", see `language_of`.
        wording: the ModelScope-Agent version whose text is used, "0.7.1" or "0.7.2".
        knowledge: retrieved text, cut at KNOWLEDGE_LIMIT; None leaves the block out, the Gradio app always sends one.

    Raises:
        ValueError: unknown wording or language.
    """
    if (language, wording) not in _ANSWER:
        raise ValueError(f"no AgentFabric wording for language {language!r}, version {wording!r}; "
                         f"there are: {sorted(_ANSWER)}")
    head = _KNOWLEDGE[language].format(text=knowledge[:KNOWLEDGE_LIMIT]) if knowledge else ""
    lines = "\n\n".join(describe_tool(tool) for tool in tools)
    return head + tools_block(lines, tool_names(tools), language, wording) + _INSTRUCTION[language].format(
        text=instruction)


def tools_block(lines: str, names: str, language: str, wording: str = WORDING) -> str:
    """The prompt's part on tools, from their lines and the list of their names as text."""
    return _TOOLS[language].format(tools=lines, names=names, answer=_ANSWER[language, wording])


def query_prefix(tools: list[dict], language: str, *, role: str = "", knowledge: bool = False,
                 files: tuple[str, ...] = ()) -> str:
    """The bracket that stands before the newest query: role, tools, knowledge, then uploaded file names."""
    role_text, tools_text, knowledge_text, files_text = _PREFIX[language]
    inside = (role_text.format(role=role) if role else "") + tools_text.format(names=tool_names(tools))
    prefix = f"({inside}{knowledge_text if knowledge else ''})"
    return prefix + (files_text.format(files=",".join(files)) if files else "")


def user_message(tools: list[dict], query: str, *, history: list[dict] = (), role: str = "",
                 knowledge: str | None = None, language: str | None = None) -> tuple[str, dict]:
    """The prompt's language and the prefixed query as the user message of a turn's first request.

    The language is the runtime's choice unless given: Chinese if query, history or knowledge hold a Chinese character,
    else English.
    """
    language = language or language_of("".join([query, *(message["content"] for message in history), knowledge or ""]))
    prefix = query_prefix(tools, language, role=role, knowledge=bool(knowledge))
    return language, {"role": "user", "content": prefix + query}


def first_request(tools: list[dict], query: str, *, instruction: str | None = None, history: list[dict] = (),
                  wording: str = WORDING, role: str = "", knowledge: str | None = None) -> list[dict]:
    """The messages of a user turn's first request: system, earlier turns as they were, the prefixed query.

    `history` holds user turns without prefix and assistant turns with their whole trace, as the app keeps them.
    """
    language, message = user_message(tools, query, history=history, role=role, knowledge=knowledge)
    system = system_prompt(tools, instruction or DEFAULT_INSTRUCTION[language], language, wording=wording,
                           knowledge=knowledge)
    return [{"role": "system", "content": system}, *history, message]


def render_call(name: str, arguments: dict) -> str:
    """A tool call as a model should write it. It ends right after the JSON: a reply that stops there reads the same
    on servers that strip the stop word (vLLM) and on servers that keep it (`swift deploy`)."""
    return f"Action: {name}\nAction Input: {json_text(arguments)}"


def render_observation(result: str) -> str:
    """A tool result as the runtime feeds it back."""
    return f"\nObservation: <result>{result}</result>\nAnswer:"


def next_request(messages: list[dict], reply: str, result: str) -> list[dict]:
    """The request after a tool call, on the OpenAI path: reply and result, cut at OBSERVATION_LIMIT, are appended to
    the USER message.

    The model then sees its own call inside the user's turn and has to open a new assistant turn with the summary.
    """
    *head, user = messages
    return [*head, {**user, "content": user["content"] + reply + render_observation(result[:OBSERVATION_LIMIT])}]


def cut_at_stop(text: str) -> str:
    """The reply up to the first stop word, as a server that strips stop words would return it."""
    return text.split(STOP_WORDS[0], 1)[0]


def read_calls(reply: str) -> list[Call]:
    """Every call the runtime's regex finds in a reply; of several the runtime runs only the first."""
    return [Call(*found) for found in _CALL.findall(reply)]


def parse_arguments(text: str) -> object:
    """Arguments as the runtime reads them: json5, so single quotes and trailing commas pass, Python's True does not.

    Raises:
        ValueError: the text is not json5.
    """
    return json5.loads(text)
