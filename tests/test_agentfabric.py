"""The wire format: by construction, and byte for byte against recorded requests of the runtime."""

import json
import re

import pytest
from conftest import tool

from helpers import agentfabric
from helpers.record.prompts import read_query, read_system

RECORDED = """roleplay_zh_1tool roleplay_zh_2tools roleplay_en_1tool roleplay_zh_1tool_v071
roleplay_en_1tool_v071 roleplay_zh_keepstop agentfabric_zh_1tool agentfabric_zh_2tools
agentfabric_en_1tool mal_b_bad_json mal_f_pretty_json mal_g_two_actions mal_j_json5""".split()


@pytest.mark.parametrize("name", RECORDED)
def test_every_request_is_what_the_runtime_sends(shared, name):
    """The first of a turn by construction, with any history; the next from the one before."""
    files, before = sorted((shared / "wire").glob(f"{name}_0?.json")), None
    assert len(files) > 1
    for file in files:
        sent = json.loads(file.read_text("utf-8"))["body"]["messages"]
        system, *history, user = sent
        if before and len(before) == len(sent):
            added = user["content"].removeprefix(before[-1]["content"])
            pattern = r"(.*)\nObservation: <result>(.*)</result>\nAnswer:"
            reply, result = re.fullmatch(pattern, added, re.S).groups()
            made = agentfabric.next_request(before, reply, result)
        else:
            prompt = read_system(system["content"])
            prompt["role"], query = read_query(user["content"], prompt)
            del prompt["language"]  # follows from the texts
            made = agentfabric.first_request(prompt.pop("tools"), query, history=history, **prompt)
        assert made == sent
        before = sent


def test_replies_the_runtime_takes_as_final_are_final_here(shared):
    fullwidth = "Action：x\nAction Input：{}"
    finals = {"a_no_action_input": "Action: amap_weather", "l_empty": "", "e_fullwidth": fullwidth}
    for name, reply in finals.items():
        assert not (shared / "wire" / f"mal_{name}_01.json").exists()
        assert agentfabric.read_calls(reply) == []
    assert len(list((shared / "wire").glob("mal_h_loop_*.json"))) == agentfabric.MAX_TURNS


def test_the_prompt_is_in_the_language_of_the_query_or_the_history():
    tools, earlier = [tool(), tool("天气", "查天气")], [{"role": "user", "content": "天气"}]
    for query, history in (("你好", []), ("ok", earlier), ("hello", []), ("こんにちは", [])):
        system = agentfabric.first_request(tools, query, history=history)[0]["content"]
        assert ("# 工具" in system) == (query == "你好" or bool(history))
        assert "\n\n天气: 天气 API。查天气 输入参数: {" in system, "in its own description's"


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
    arguments = {"名": '北京\n"x"', "n": [1, True, None]}
    (call,) = agentfabric.read_calls(agentfabric.render_call("查", arguments))
    assert (call.name, json.loads(call.arguments)) == ("查", arguments)
    with pytest.raises(agentfabric.Unreadable, match="not Unicode"):
        agentfabric.call_message("t", {"half a pair": "\ud800"})
