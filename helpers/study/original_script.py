"""What the published conversion script writes, byte for byte. To convert well: `helpers.convert`.

python -m helpers.study.original_script IN.jsonl OUT.jsonl
"""

import json
import re
import sys

from helpers.agentfabric import Unreadable, system_prompt
from helpers.assets import processes, read_jsonl, write_jsonl
from helpers.ms_agent import render_tools


def original_tools(text: str) -> list[dict]:
    """What the script reads of each tool. AttributeError where a search finds nothing."""
    tools = []
    for part in re.findall(r"\n\d\.(.*?})]", text, re.DOTALL):
        tool = {"name": re.search(r"(.*?):", part).group(1).strip()}
        tool["label"] = re.search(r"(\S+)\sAPI", part).group(1)
        tool["description"] = re.search(r"useful for\?\s(.*?)\.", part).group(1)
        _, found, listed = part.partition("Parameters: [{")
        if found:
            tool["key"] = re.search(r'"name": "(.*?)"', listed).group(1)
            tool["about"] = re.search(r'"description": "(.*?)"', listed).group(1)
            required = re.search(r'"required": "(.*)"', listed).group(1)
            tool["required"] = required.strip().lower() == "true"
        tools.append(tool)
    return tools


def process_system(text: str) -> str:
    """The system text of an ms_agent row as the script writes it. AttributeError where it dies."""
    lines, tools = "", original_tools(text)
    for tool in tools:
        lines += f"{tool['name']}: {tool['label']} API。{tool['description']}输入参数: "
        lines += '{"type": "object", "properties": {'
        if "key" in tool:
            lines += f'"\\{tool["key"]}": {{"type": "string", "description": "{tool["about"]}"}}'
        required = json.dumps([tool["key"]] if tool.get("required") else [])
        lines += f'}},"required": {required}}} Format the arguments as a JSON object.\n\n'
    instruction = "你扮演AI-Agent，\n你具有下列具体功能：\n下面你将开始扮演"
    before, after = system_prompt([], instruction, "zh", wording="0.7.1").split("\n\n\n\n")
    names = json.dumps([tool["name"] for tool in tools])
    return before + "\n\n" + lines + after.replace("[]", names)


def convert_row(row: dict) -> dict:
    """An ms_agent row, of which only the system turn changes; Unreadable where the script dies."""
    try:
        system, *turns = row["conversations"]
        system = {**system, "value": process_system(system["value"])}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Unreadable("the original script dies on this row") from None
    return {**row, "conversations": [system, *turns]}


def schemas(tools: list[dict]) -> list[dict]:
    """What the script leaves of tools, as OpenAI schemas; Unreadable where it dies."""
    left = []
    try:
        kept = original_tools(render_tools(tools))
    except AttributeError:
        raise Unreadable("the original script dies on this row") from None
    for tool in kept:
        key, about = tool.get("key"), {"type": "string", "description": tool.get("about")}
        schema = {"type": "object", "properties": {key: about} if "key" in tool else {}}
        schema["required"] = [key] if tool.get("required") else []
        function = {"name": tool["name"], "description": tool["description"], "parameters": schema}
        left.append({"type": "function", "function": function})
    return left


def convert_file(source: str, out: str) -> None:
    """Convert a .jsonl file as the script does. Rows on which it dies, and with it the whole run,
    stand with their line and reason in `….rejected.jsonl` beside `out`."""
    rows, rejected = [], []
    for number, row in enumerate(read_jsonl(source), 1):
        try:
            rows.append(convert_row(row))
        except Unreadable as problem:
            rejected.append({"line": number, "reason": str(problem), "row": row})
    write_jsonl(out, rows)
    write_jsonl(out.removesuffix(".jsonl") + ".rejected.jsonl", rejected)
    print(f"{len(rows):,} rows converted, {len(rejected):,} rejected")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(processes.command(lambda: convert_file(*sys.argv[1:])))
