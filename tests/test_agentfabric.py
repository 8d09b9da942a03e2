"""The wire format, by construction and byte for byte against recorded requests of ModelScope-Agent 0.7.1 and 0.7.2."""

import json
import re

import pytest
from conftest import tool

from helpers import agent, agentfabric


def recorded(shared, name):
    return json.loads((shared / "wire" / f"{name}.json").read_text("utf-8"))["body"]["messages"]


def tools_in(system):
    """The tools a recorded system prompt lists, read back from its tool lines."""
    lines = re.findall(r"^(\S+): \S+ API(?:。|\. )(.*?) (?:输入参数|Parameters): (\{.*\}) Format the arguments", system, re.M)
    return [{"type": "function", "function": {"name": name, "description": text, "parameters": json.loads(schema)}}
            for name, text, schema in lines]


def instruction_in(system):
    return re.search(r"#(?: 指令|Instructions)\n\n(.*?)\n\n(?:请注意|Note:)", system, re.S)[1]


FIRST = ["roleplay_zh_1tool", "roleplay_zh_2tools", "roleplay_en_1tool", "roleplay_zh_1tool_v071",
         "roleplay_en_1tool_v071", "roleplay_zh_keepstop", "agentfabric_zh_1tool", "agentfabric_zh_2tools",
         "agentfabric_en_1tool"]


@pytest.mark.parametrize("name", FIRST)
def test_first_request_is_what_the_runtime_sends(shared, name):
    sent = recorded(shared, f"{name}_00")
    system, user = sent[0]["content"], sent[1]["content"]
    role = re.search(r"你正在扮演(.*?)。|You are playing as (.*?)\.", user.split(")")[0])
    assert agentfabric.first_request(
        tools_in(system), user.split(")", 1)[1], instruction=instruction_in(system),
        wording="0.7.1" if "v071" in name else "0.7.2", role=(role[1] or role[2]) if role else "",
        knowledge="Empty Response" if name.startswith("agentfabric") else None) == sent


@pytest.mark.parametrize("name", [*FIRST, "mal_b_bad_json", "mal_c_unknown_tool", "mal_d_missing_arg",
                                  "mal_f_pretty_json", "mal_g_two_actions", "mal_j_json5", "mal_n_wrongtype"])
def test_second_request_is_the_first_with_reply_and_observation(shared, name):
    first, second = recorded(shared, f"{name}_00"), recorded(shared, f"{name}_01")
    added = second[-1]["content"].removeprefix(first[-1]["content"])
    reply, result = re.fullmatch(r"(.*)\nObservation: <result>(.*)</result>\nAnswer:", added, re.S).groups()
    assert agentfabric.next_request(first, reply, result) == second


def test_history_keeps_the_trace_and_drops_the_prefix(shared):
    sent = recorded(shared, "agentfabric_zh_1tool_02")
    rebuilt = agentfabric.first_request(
        tools_in(sent[0]["content"]), "谢谢", instruction=instruction_in(sent[0]["content"]), history=sent[1:3],
        role="天气助手", knowledge="Empty Response")
    assert rebuilt == sent


@pytest.mark.parametrize("path", ["a_no_action_input", "e_fullwidth", "l_empty"])
def test_replies_the_runtime_takes_as_final_are_final_here(shared, path):
    assert not (shared / "wire" / f"mal_{path}_01.json").exists()
    reply = {"a_no_action_input": "Action: amap_weather", "e_fullwidth": "Action：x\nAction Input：{}", "l_empty": ""}[path]
    assert agentfabric.read_calls(reply) == []


def test_ten_requests_then_the_runtime_gives_up(shared):
    assert len(list((shared / "wire").glob("mal_h_loop_*.json"))) == agentfabric.MAX_TURNS
    endless = agent.run([tool()], "hotel?", lambda messages: 'Action: book_hotel\nAction Input: {"city": "x"}', str)
    assert [step.kind for step in endless] == ["call"] * agentfabric.MAX_TURNS + ["gave_up"]


def test_system_prompt_by_construction():
    prompt = agentfabric.system_prompt([tool(), tool("天气", "查天气")], "Be brief.", "en", wording="0.7.1")
    assert prompt.startswith("\n# Tools\n\n## You have the following tools:\n\nbook_hotel: book_hotel API. Reserve")
    assert "\n\n天气: 天气 API。查天气 输入参数: {" in prompt, "a tool's line follows its own description's language"
    assert "must be one of [book_hotel,天气]\n" in prompt
    assert prompt.endswith("\n#Instructions\n\nBe brief.\n\nNote: you have the ability to display images and videos, as "
                           "well as the ability to run code. Don't say you can't do it.\n")
    with pytest.raises(ValueError, match="0.5"):
        agentfabric.system_prompt([], "", "en", wording="0.5")


@pytest.mark.parametrize(("query", "history", "language"), [
    ("hello", [], "en"), ("你好", [], "zh"), ("ok", [{"role": "user", "content": "天气"}], "zh"), ("こんにちは", [], "en")])
def test_the_prompts_language(query, history, language):
    system = agentfabric.first_request([tool()], query, history=history)[0]["content"]
    assert ("# 工具" in system) == (language == "zh")


def test_what_a_reply_reads_as():
    text = 'Thought: x\nAction: a b\nAction Input: {"k": 1} \nAction: c\nAction Input: {}'
    assert agentfabric.read_calls(text) == [agentfabric.Call("a b", '{"k": 1} '), agentfabric.Call("c", "{}")]
    assert agentfabric.read_calls("Action:x\nAction Input: {}") == []
    assert agentfabric.read_calls('Action: x\nAction Input: {\n "k": 1}')[0].arguments == "{"
    assert agentfabric.parse_arguments("{'k': 'v',}") == {"k": "v"}
    for wrong in ("{'k': True}", "{'k': None}", "朝阳区", '{"k": 1'):
        with pytest.raises(ValueError):
            agentfabric.parse_arguments(wrong)


def test_a_rendered_call_reads_back():
    call = agentfabric.read_calls(agentfabric.render_call("查", {"名": "北京\n\"x\"", "n": [1, True, None]}))[0]
    assert (call.name, json.loads(call.arguments)) == ("查", {"名": "北京\n\"x\"", "n": [1, True, None]})


def test_a_batch_of_visits_advances_together_and_keeps_order():
    sizes = []

    def ask(requests):  # a scripted model, not a real one: calls once, then answers with what it was fed
        sizes.append(len(requests))
        return ["done " + m[-1]["content"].split("<result>")[1].split("<")[0] if "<result>" in m[-1]["content"]
                else "hello" if "hi" in m[-1]["content"] else 'Action: t\nAction Input: {"k": 1}\nObservation:' for m in requests]

    visits = [(agent.visit([tool("t")], query), lambda call: f"R{call.arguments}") for query in ("go", "hi", "go on")]
    first, second, third = agent.run_batch(visits, ask)
    assert sizes == [3, 2]
    assert [step.kind for step in first] == ["call", "answer"] and first[-1].text == 'done R{"k": 1}'
    assert first[0].result == 'R{"k": 1}' and first[0].raw.endswith("Observation:") and "Observation" not in first[0].text
    assert second[0].text == "hello" and [step.kind for step in third] == ["call", "answer"]
