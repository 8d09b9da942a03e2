"""The wire format: by construction, and byte for byte against recorded requests of the runtime."""

import json
import re

import pytest
from conftest import tool

from helpers import agentfabric

FIRST = """roleplay_zh_1tool roleplay_zh_2tools roleplay_en_1tool roleplay_zh_1tool_v071
roleplay_en_1tool_v071 roleplay_zh_keepstop agentfabric_zh_1tool agentfabric_zh_2tools
agentfabric_en_1tool""".split()
SECOND = """mal_b_bad_json mal_c_unknown_tool mal_d_missing_arg mal_f_pretty_json mal_g_two_actions
mal_j_json5 mal_n_wrongtype""".split()


def recorded(shared, name):
    return json.loads((shared / "wire" / f"{name}.json").read_text("utf-8"))["body"]["messages"]


def tools_in(system):
    """The tools that a recorded system prompt lists, read back from its tool lines."""
    line = r"^(\S+): \S+ API(?:。|\. )(.*?) (?:输入参数|Parameters): (\{.*\}) Format the arguments"
    keys, found = ("name", "description", "parameters"), re.findall(line, system, re.M)
    return [dict(zip(keys, (name, text, json.loads(schema)))) for name, text, schema in found]


def instruction_in(system):
    return re.search(r"#(?: 指令|Instructions)\n\n(.*?)\n\n(?:请注意|Note:)", system, re.S)[1]


@pytest.mark.parametrize("name", FIRST)
def test_first_request_is_what_the_runtime_sends(shared, name):
    sent = recorded(shared, f"{name}_00")
    system, user = sent[0]["content"], sent[1]["content"]
    prefix, query = user.split(")", 1)
    role = re.search(r"(?:你正在扮演|You are playing as )(.*?)(?:。|\.)", prefix)
    parts = {"role": role[1] if role else "", "wording": "0.7.1" if "v071" in name else "0.7.2"}
    parts["knowledge"] = "Empty Response" if name.startswith("agentfabric") else None
    parts["instruction"] = instruction_in(system)
    assert agentfabric.first_request(tools_in(system), query, **parts) == sent


@pytest.mark.parametrize("name", FIRST + SECOND)
def test_second_request_is_the_first_with_reply_and_observation(shared, name):
    first, second = recorded(shared, f"{name}_00"), recorded(shared, f"{name}_01")
    added = second[-1]["content"].removeprefix(first[-1]["content"])
    pattern = r"(.*)\nObservation: <result>(.*)</result>\nAnswer:"
    reply, result = re.fullmatch(pattern, added, re.S).groups()
    assert agentfabric.next_request(first, reply, result) == second


def test_history_keeps_the_trace_and_drops_the_prefix(shared):
    sent = recorded(shared, "agentfabric_zh_1tool_02")
    system = sent[0]["content"]
    parts = {"role": "天气助手", "knowledge": "Empty Response", "history": sent[1:3]}
    parts["instruction"] = instruction_in(system)
    assert agentfabric.first_request(tools_in(system), "谢谢", **parts) == sent


def test_replies_the_runtime_takes_as_final_are_final_here(shared):
    replies = {"a_no_action_input": "Action: amap_weather", "l_empty": ""}
    replies["e_fullwidth"] = "Action：x\nAction Input：{}"
    for name, reply in replies.items():
        assert not (shared / "wire" / f"mal_{name}_01.json").exists()
        assert agentfabric.read_calls(reply) == []
    assert len(list((shared / "wire").glob("mal_h_loop_*.json"))) == agentfabric.MAX_TURNS


def test_system_prompt_by_construction():
    tools = [tool(), tool("天气", "查天气")]
    prompt = agentfabric.system_prompt(tools, "Be brief.", "en", wording="0.7.1")
    assert prompt.startswith("\n# Tools\n\n## You have the following tools:\n\nbook_hotel: book_h")
    assert "\n\n天气: 天气 API。查天气 输入参数: {" in prompt, "in its own description's language"
    assert "must be one of [book_hotel,天气]\n" in prompt
    assert "\n#Instructions\n\nBe brief.\n\nNote: you have the ability to display" in prompt
    with pytest.raises(ValueError, match="0.5"):
        agentfabric.system_prompt([], "", "en", wording="0.5")
    earlier = [{"role": "user", "content": "天气"}]
    for query, history in (("你好", []), ("ok", earlier), ("hello", []), ("こんにちは", [])):
        system = agentfabric.first_request(tools, query, history=history)[0]["content"]
        assert ("# 工具" in system) == (query == "你好" or bool(history))


def test_what_a_reply_reads_as():
    text = 'Thought: x\nAction: a b\nAction Input: {"k": 1} \nAction: c\nAction Input: {}'
    calls = [agentfabric.Call("a b", '{"k": 1} '), agentfabric.Call("c", "{}")]
    assert agentfabric.read_calls(text) == calls
    assert agentfabric.read_calls("Action:x\nAction Input: {}") == []
    assert agentfabric.read_calls('Action: x\nAction Input: {\n "k": 1}')[0].arguments == "{"
    assert agentfabric.cut_at_stop("done\nObservation: <result>") == "done\n"
    assert agentfabric.parse_arguments("{'k': 'v',}") == {"k": "v"}
    for wrong in ("{'k': True}", "{'k': None}", "朝阳区", '{"k": 1'):
        with pytest.raises(ValueError):
            agentfabric.parse_arguments(wrong)


def test_a_rendered_call_reads_back():
    arguments = {"名": '北京\n"x"', "n": [1, True, None]}
    (call,) = agentfabric.read_calls(agentfabric.render_call("查", arguments))
    (same,) = agentfabric.calls_of([agentfabric.call_message("查", arguments)])
    assert (call.name, json.loads(call.arguments)) == ("查", arguments) == tuple(same.values())
    with pytest.raises(agentfabric.Unreadable, match="not Unicode"):
        agentfabric.call_message("t", {"half a pair": "\ud800"})
