"""The recorder passes everything through and keeps every chat; recordings become rows, or are set aside with a reason."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import call_message, tool
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from helpers import agentfabric, recorder, recordings, roleplay
from helpers.canonical import Unreadable
from helpers.corpus import turns_of, wire_requests
from helpers.prompt_parser import read_query, read_system
from helpers.scripted_teacher import NAME, script_of, scripted_teacher
from helpers.storage import read_jsonl

CHAT = {"model": NAME, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "你好"}]}


@pytest.fixture(scope="module")
def double():
    """A server double: its chats break off after a few bytes, everything else is an error 418 with a header."""
    async def chat(request):
        async def half():
            yield b'data: {"choices": [{"delta": {"content": "ha'
            raise RuntimeError("the double breaks off")
        return StreamingResponse(half(), media_type="text/event-stream")

    async def other(request):
        return JSONResponse({"error": request.headers.get("x-mine"), "query": request.url.query}, 418, {"x-theirs": "b"})

    routes = [Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/{path:path}", other, methods=["GET", "POST"])]
    with recorder.serving(Starlette(routes=routes)) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def teacher():
    with scripted_teacher({json.dumps(CHAT["messages"]): "您好！" * 50}) as url:
        yield url


def post(url, body, **more):
    return httpx.post(f"{url}/chat/completions", json=body, timeout=10, trust_env=False, **more)


def test_whole_and_streamed_replies_pass_and_are_kept_alike(teacher, tmp_path):
    out = tmp_path / "deep" / "recordings.jsonl"
    with recorder.recording(teacher, out) as url:
        whole = post(url, CHAT, headers={"Authorization": "Bearer sk-secret"})
        streamed = post(url, {**CHAT, "stream": True})
        models = httpx.get(f"{url}/models", trust_env=False)
    assert whole.json() == post(teacher, CHAT).json()
    assert streamed.text == post(teacher, {**CHAT, "stream": True}).text and streamed.text.endswith("data: [DONE]\n\n")
    assert models.json()["data"][0]["id"] == NAME
    kept = read_jsonl(out)
    assert [line["request"] for line in kept] == [CHAT, {**CHAT, "stream": True}], "chats only, in order"
    choices = [line["reply"]["choices"][0] for line in kept]
    assert choices[0]["message"] == choices[1]["message"] == {"role": "assistant", "content": "您好！" * 50}
    assert {choice["finish_reason"] for choice in choices} == {"stop"} and {line["status"] for line in kept} == {200}
    assert "sk-secret" not in out.read_text("utf-8") and set(kept[0]) == {"time", "request", "reply", "status"}


def test_errors_pass_through_and_are_kept(teacher, double, tmp_path):
    with recorder.recording(teacher, tmp_path / "r.jsonl") as url:
        refused = post(url, {**CHAT, "messages": [{"role": "user", "content": "not in the script"}]})
    assert refused.status_code == 404 and "not in the script" in refused.json()["error"]["message"]
    assert read_jsonl(tmp_path / "r.jsonl")[0]["status"] == 404
    with recorder.recording(double, tmp_path / "d.jsonl") as url:
        other = httpx.get(f"{url}/odd/path?a=1&b=2", headers={"x-mine": "m"}, trust_env=False)
        with pytest.raises(httpx.HTTPError):
            post(url, CHAT)
    assert (other.status_code, other.headers["x-theirs"]) == (418, "b") and other.json() == {"error": "m", "query": "a=1&b=2"}
    assert [line["reply"] for line in read_jsonl(tmp_path / "d.jsonl")] == [{"error": "the reply broke off"}]


def test_without_a_server_there_is_a_clear_error(tmp_path):
    with recorder.recording("http://127.0.0.1:9/v1", tmp_path / "r.jsonl") as url:
        answer = post(url, CHAT)
        assert post(url, CHAT).status_code == 502, "and it goes on"
    assert answer.status_code == 502 and "http://127.0.0.1:9/v1" in answer.json()["error"]["message"]
    assert [line["status"] for line in read_jsonl(tmp_path / "r.jsonl")] == [502, 502]


def test_many_at_once_never_mix_lines(teacher, tmp_path):
    with recorder.recording(teacher, tmp_path / "r.jsonl") as url, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: post(url, {**CHAT, "stream": bool(i % 2), "user": "u" * 9000}), range(30)))
    assert len(read_jsonl(tmp_path / "r.jsonl")) == 30


def test_what_cannot_start_says_why(teacher, tmp_path, capsys):
    with recorder.recording(teacher, tmp_path / "r.jsonl") as url:
        taken = int(url.split(":")[2].split("/")[0])
        assert recorder.main(["--to", teacher, "--port", str(taken), "--out", str(tmp_path / "s.jsonl")]) == 1
    assert f"port {taken} is in use" in capsys.readouterr().err
    with pytest.raises(recorder.RecorderError, match="localhost:8000"), recorder.recording("localhost:8000", tmp_path / "r"):
        pass
    with pytest.raises(recorder.RecorderError, match="cannot write"), recorder.recording(teacher, tmp_path):
        pass


# recordings → rows
def lines_of(row, status=200, reason="stop"):
    """A canonical row as the recorder would have heard it."""
    for messages, reply in wire_requests(row):
        said = reply if isinstance(reply, str) else agentfabric.render_call(**reply)
        yield line(messages, said, status, reason)


def line(messages, said, status=200, reason="stop"):
    return json.dumps({"time": "", "request": {"messages": messages, "model": "m"}, "status": status, "reply": {
        "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": reason}]}})


def heard(*rows):
    made, aside = recordings.rows_of(one for row in rows for one in lines_of(row))
    return [row for _, row in made], [one.reason for one in aside]


def content(row):
    return {key: value for key, value in row.items() if key != "id"}


TEXT = st.text(st.sampled_from("ab 天气.。:：()[]{}<>\"'\\/#!?\n0123"), min_size=1, max_size=30).filter(str.strip)
NAME_ = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
VALUE = st.one_of(TEXT, st.integers(-10**18, 10**18), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers(0, 9), max_size=3))


@st.composite
def canonical_rows(draw):
    """Rows of one to three turns with zero to two calls, as AgentFabric could have them; values are all different."""
    names = draw(st.lists(NAME_, min_size=1, max_size=3, unique=True))
    tools = [tool(name, draw(TEXT), required=(), **{key: {"description": draw(TEXT)} for key in draw(st.lists(NAME_, min_size=1, max_size=3, unique=True))}) for name in names]
    messages, count = [], 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        results = []
        for _ in range(draw(st.integers(0, 2))):
            function = draw(st.sampled_from(tools))["function"]
            arguments = {key: draw(VALUE) for key in function["parameters"]["properties"]}
            message, count = call_message(function["name"], **arguments), count + 1
            if message in messages:
                continue
            results.append(f"R{count}")
            messages += [message, {"role": "tool_response", "content": json.dumps({"value": results[-1]})}]
        messages.append({"role": "assistant", "content": " ".join([draw(TEXT), *results])})
    row = {"id": "r", "tools": tools, "messages": messages, "instruction": draw(TEXT)}
    return {**row, **draw(st.sampled_from([{}, {"role": "天气(助手)"}, {"knowledge": "K\n\n# 工具\n[1]"}, {"role": "Bot", "knowledge": "Empty Response"}]))}


def plain(row):
    """Whether a row's texts hold none of the protocol's own marks, which no parser could tell from the real ones."""
    return not re.search("Action|Observation|</result>|\\[上传文件", json.dumps(row["messages"], ensure_ascii=False))


@settings(max_examples=150, deadline=None)
@given(canonical_rows().filter(plain))
def test_canonical_to_wire_to_recordings_to_canonical_is_the_identity(row):
    rows, aside = heard(row)
    assert (rows, aside) == ([content(row)], [])


def test_a_conversation_is_one_row_and_interleaved_visits_come_apart(row, two_turns):
    row, two_turns = ({**one, "instruction": f"Be {name}."} for one, name in ((row, "a"), (two_turns, "b")))
    mixed = [one for pair in zip(list(lines_of(two_turns)), [*lines_of(row), "", ""]) for one in pair]
    made, aside = recordings.rows_of(mixed)
    assert sorted((used, row["instruction"]) for used, row in made) == [((1, 3, 5, 7), "Be b."), ((2, 4), "Be a.")]
    assert [made_row["messages"] for _, made_row in made if made_row["instruction"] == "Be b."] == [two_turns["messages"]]
    assert len(turns_of(two_turns)) == 2 and not aside


def reply_to(row, *said, result="HB-7", reason="stop"):
    """What becomes of a visit in which the model says these things, each but the last fed back with `result`."""
    messages, lines = next(wire_requests(row))[0], []
    for one in said:
        lines.append(line(messages, one, reason=reason))
        messages = agentfabric.next_request(messages, one, result)
    made, aside = recordings.rows_of(lines)
    assert len(made) + len(aside) == 1 and sum(len(one.lines) for one in aside) + sum(len(used) for used, _ in made) == len(said)
    return aside[0].reason if aside else "a row"


GOOD = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'


@pytest.mark.parametrize(("said", "options", "becomes"), [
    ([GOOD, "Booked: HB-7."], {}, "a row"),
    (["工具调用\n" + GOOD, "HB-7"], {}, "a row"),
    ([GOOD + "\nObservation:", "HB-7"], {}, "a row"),
    (["Action: book_hotel\nAction Input: {'city': 'Lisbon',}", "HB-7"], {}, "a row"),
    (["Hello!"], {}, "a row"),
    ([GOOD, "Booked."], {}, "the answer states nothing of a result"),
    ([GOOD, "Sunny, 25 degrees."], {"result": "Today it is sunny, with 25 degrees."}, "a row"),
    ([GOOD, "Fine weather."], {"result": "Today it is sunny, with 25 degrees."}, "the answer states nothing of a result"),
    ([GOOD, "![图片](https://x.example/a.png)"], {"result": "![IMAGEGEN](https://x.example/a.png)"}, "a row"),
    ([GOOD, "![图片](https://x.example/b.png)"], {"result": "![IMAGEGEN](https://x.example/a.png)"}, "the answer leaves out or changes an address from a result"),
    ([GOOD, "HB-7"], {"reason": "length"}, "a reply was cut off"),
    ([GOOD], {}, "the visit ends in a call"),
    ([GOOD, GOOD, "HB-7"], {}, "a call is made twice"),
    ([GOOD + "\n" + GOOD, "HB-7"], {}, "a reply with several calls"),
    ([GOOD + "\nObservation: <result>HB-9</result>\nAnswer: HB-9", "HB-7"], {}, "the model wrote an observation itself"),
    (["Action: book_flat\nAction Input: {}", "HB-7"], {}, "a call names a tool that the prompt does not list"),
    (["Action: book_hotel\nAction Input: {}", "HB-7"], {}, "a call's arguments do not fit the tool's schema"),
    (['Action: book_hotel\nAction Input: {"city": 7}', "HB-7"], {}, "a call's arguments do not fit the tool's schema"),
    (["Action: book_hotel\nAction Input: [1]", "HB-7"], {}, "a call's arguments are not an object"),
    (["Action: book_hotel\nAction Input: {\n}", "HB-7"], {}, "a call's arguments cannot be read"),
    ([GOOD, "It failed."], {"result": "Tool api book_hotel failed to call. Args: {}.Details: x"}, "a tool failed"),
    ([GOOD, "Sorry."], {"result": '{"error": "full"}'}, "a tool failed"),
    (["Action：book_hotel\nAction Input：{}"], {}, "the answer holds a call that the runtime does not see"),
    ([""], {}, "an empty turn of assistant"),
])
def test_good_visits_become_rows_and_others_are_set_aside_with_a_reason(row, said, options, becomes):
    assert reply_to(row, *said, **options) == becomes


def test_a_bad_turn_takes_the_later_turns_with_it_and_leaves_the_earlier(two_turns):
    lines = list(lines_of({**two_turns, "instruction": "x"}))
    assert [row["messages"] for _, row in recordings.rows_of(lines[:-1])[0]] == [two_turns["messages"][:-2]]
    cut = [one.replace('"finish_reason": "stop"', '"finish_reason": "length"') for one in lines[:3]] + lines[3:]
    made, aside = recordings.rows_of(cut)
    assert not made and [one.reason for one in aside] == ["a reply was cut off", "an earlier turn was set aside"]
    made, aside = recordings.rows_of([*lines[:3], *lines[:3]])
    assert len(made) == 1 and [one.reason for one in aside] == ["the same conversation again"]


def test_lines_that_are_no_good_chat_are_set_aside(row, tmp_path):
    good = list(lines_of({**row, "instruction": "x"}))
    odd = ["{", "[]", '{"request": {}, "reply": {}, "status": 200}', line([], "x"), line([{"role": "user", "content": None}] * 2, "x"),
           *list(lines_of(row, status=500))[:1], line([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "x")]
    (tmp_path / "r.jsonl").write_text("\n".join([*odd, *good]), "utf-8")
    report = recordings.convert(tmp_path / "r.jsonl", tmp_path / "rows.jsonl")
    assert report == {"recordings": len(odd) + 2, "rows": 1, "turns": 1, "set_aside": {
        "not a line of the recorder": 3, "not a chat of texts with a system message": 2,
        "the server answered with an error (HTTP 500)": 1, "the system message is not AgentFabric's": 1}}
    assert len(read_jsonl(tmp_path / "rows.rejected.jsonl")) == len(odd)
    assert recordings.main([str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "x.jsonl")]) == 1


# the prompts, read back
@pytest.mark.parametrize("wording", ["0.7.1", "0.7.2"])
@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("knowledge", [None, "Empty Response", "# 工具\n\n" * 3])
def test_prompts_read_back(wording, language, knowledge):
    for tools in ([], [tool()], [tool(), tool("天气-1", "查天气。\n\nParameters: {}")]):
        text = agentfabric.system_prompt(tools, "a\n\nb", language, wording=wording, knowledge=knowledge)
        prompt = read_system(text)
        assert (prompt.tools, prompt.instruction, prompt.language, prompt.wording, prompt.knowledge) == (tools, "a\n\nb", language, wording, knowledge)
        for role in ("", "R(x)"):
            prefix = agentfabric.query_prefix(tools, language, role=role, knowledge=bool(knowledge))
            assert read_query(prefix + "(q)", prompt) == (role, "(q)")
        with pytest.raises(Unreadable, match="uploaded"):
            read_query(agentfabric.query_prefix(tools, language, knowledge=bool(knowledge), files=("a.txt",)) + "q", prompt)
        with pytest.raises(Unreadable):
            read_system(text[:-1])


# genuine recordings
def wire_lines(shared, name, last="朝阳区今天晴，25度。 Sunny, 25C. ![IMAGEGEN](http://127.0.0.1/img.png)"):
    """The recorder's lines of a genuine dialogue. A reply is what the next request adds; of the last, which was not kept,
    `last` takes the place."""
    sent = [json.loads(path.read_text("utf-8"))["body"]["messages"] for path in sorted((shared / "wire").glob(f"{name}_0?.json"))]
    for now, after in zip(sent, [*sent[1:], None]):
        carried = after and after[:-1] == now[:-1] and after[-1]["content"].removeprefix(now[-1]["content"])
        found = re.fullmatch(r"(.*)\nObservation: <result>.*", carried, re.S) if carried else None
        said = found[1] if found else last
        if after and not found:  # the next turn: its history holds the answer
            said = after[-2]["content"].rpartition("</result>\nAnswer:")[2]
        yield line(now, said)


@pytest.mark.parametrize(("name", "calls"), [
    ("roleplay_zh_1tool", 1), ("roleplay_en_1tool", 1), ("roleplay_zh_2tools", 2), ("roleplay_zh_1tool_v071", 1),
    ("roleplay_en_1tool_v071", 1), ("roleplay_zh_keepstop", 1), ("agentfabric_zh_1tool", 1), ("agentfabric_zh_2tools", 2),
    ("agentfabric_en_1tool", 1), ("mal_j_json5", 1), ("mal_m_after_obs_no_stop", 1)])
def test_good_genuine_recordings_become_rows(shared, name, calls):
    lines = list(wire_lines(shared, name))
    made, aside = recordings.rows_of(lines)
    assert [one.reason for one in aside] == []
    (used, row), = made
    assert used == tuple(range(1, len(lines) + 1))
    assert [message["role"] for message in row["messages"]].count("tool_call") == calls
    assert len(turns_of(row)) == (2 if name == "agentfabric_zh_1tool" else 1)
    if name.startswith("agentfabric"):
        assert row["knowledge"] == "Empty Response" and roleplay.role_of(row["instruction"])["name"] == row["role"]
    if "v071" not in name:
        assert list(wire_requests(row))[0][0] == json.loads(lines[0])["request"]["messages"]


@pytest.mark.parametrize(("name", "last", "reason"), [
    ("a_no_action_input", "Action: amap_weather", "the answer holds a call that the runtime does not see"),
    ("b_bad_json", None, "a call's arguments cannot be read"),
    ("c_unknown_tool", None, "a call names a tool that the prompt does not list"),
    ("d_missing_arg", None, "a call's arguments do not fit the tool's schema"),
    ("e_fullwidth", "Action：amap_weather\nAction Input：{}", "the answer holds a call that the runtime does not see"),
    ("f_pretty_json", None, "a call's arguments cannot be read"),
    ("g_two_actions", None, "a reply with several calls"),
    ("h_loop", 'Action: amap_weather\nAction Input: {"location": "朝阳区"}', "the visit ends in a call"),
    ("i_plain_string", None, "a call's arguments cannot be read"),
    ("k_trailing_space_name", None, "a call names a tool that the prompt does not list"),
    ("l_empty", "", "an empty turn of assistant"),
    ("n_wrongtype", None, "a call's arguments are not an object")])
def test_bad_genuine_recordings_are_set_aside(shared, name, last, reason):
    lines = list(wire_lines(shared, f"mal_{name}", *([] if last is None else [last])))
    made, aside = recordings.rows_of(lines)
    assert not made and [(one.lines, one.reason) for one in aside] == [(tuple(range(1, len(lines) + 1)), reason)]


def test_a_script_has_one_reply_to_a_request(row):
    with pytest.raises(ValueError, match="r1"):
        script_of([row, {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": "HB-7 too"}]}])
