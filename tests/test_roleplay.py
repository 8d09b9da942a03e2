"""Our loop against ModelScope-Agent's real RolePlay: the same requests byte for byte, the same transcripts.

A scripted teacher knows only the requests that our own renderer makes; a visit that RolePlay words otherwise fails.
"""

import json
import time
from dataclasses import replace

import pytest
from conftest import ROOT, call_message, tool
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from helpers import agent, agentfabric, downloads, recorder, recordings, roleplay, scoring
from helpers.addition import author
from helpers.roleplay_tools import LOCAL
from helpers.scripted_teacher import NAME, script_of, scripted_teacher
from helpers.storage import read_jsonl

real = pytest.mark.skipif(not roleplay.PYTHON.exists(), reason="needs ModelScope-Agent's environment: make roleplay")
WEATHER = json.loads((ROOT / "data/roleplay/tools.json").read_text("utf-8"))
ROLE = {"name": "天气助手", "description": "查天气，也画图。", "instruction": "先查天气。\n\n再画一张图。"}
BOT = {"name": "WeatherBot", "description": "weather assistant", "instruction": "Look up the weather.\n\nThen draw."}

SHA256_071 = "d9ae6cbcd6b3c6ba3d5033b22110b8d35689efc5940f5ca4ec2ddad0c7abc44a"  # of modelscope_agent-0.7.1-py3-none-any.whl


def turn(query, *calls, answer):
    messages = [{"role": "user", "content": query}]
    for name, arguments, result in calls:
        messages += [call_message(name, **arguments), {"role": "tool_response", "content": result}]
    return [*messages, {"role": "assistant", "content": answer}]


ZH = turn("朝阳区天气怎样？画一张", ("amap_weather", {"location": "朝阳区"}, "晴，25度"),
          ("image_gen", {"text": "晴天", "resolution": "1024*1024"}, "![IMAGEGEN](https://x.example/a.png)"),
          answer="晴，25度。\n![IMAGEGEN](https://x.example/a.png)")
EN = turn("Weather in Oslo?", ("amap_weather", {"location": "Oslo"}, '{"state": "snow", "degrees": -2}'), answer="Snow, -2 degrees.")
ODD = tool("odd-tool.v1", "Nested {braces}, \"quotes\" and\n\nparagraphs.", required=(), kind={"type": "string", "enum": ["a", "b"]},
           deep={"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}})
ROWS = [
    {"id": "zh-role", "tools": WEATHER["zh"], "instruction": roleplay.role_text(ROLE, "zh"), "role": "天气助手",
     "knowledge": "Empty Response", "messages": ZH + turn("谢谢", answer="不客气。")},
    {"id": "zh-plain", "tools": WEATHER["zh"], "instruction": "你是天气助手。", "messages": ZH},
    {"id": "zh-one", "tools": WEATHER["zh"][:1], "instruction": "你是天气助手。", "messages": turn("你好", answer="您好！")},
    {"id": "en-role", "tools": WEATHER["en"], "instruction": roleplay.role_text(BOT, "en"), "role": "WeatherBot",
     "knowledge": "Oslo lies in Norway.\n\nIt is cold.", "messages": EN + turn("Thanks!", answer="You're welcome.")},
    {"id": "en-one", "tools": WEATHER["en"][:1], "messages": EN},
    {"id": "en-then-zh", "tools": WEATHER["en"][:1], "instruction": "Be brief.", "messages": EN + turn("谢谢", answer="不客气。")},
    {"id": "odd-tool", "tools": [ODD, WEATHER["zh"][0]], "instruction": "x", "messages": turn("Hi", ("odd-tool.v1", {"kind": "a", "deep": {"x": [1.5]}}, "{'y': '一'}"), answer="一")},
]
ROWS.append({"id": "long", "tools": WEATHER["en"][:1], "instruction": "x", "knowledge": "Far away. " * 500 + "远",
             "messages": turn("Long?", ("amap_weather", {"location": "Oslo"}, "snow " * 1000), answer="Snow.")})
CASE = scoring.Case("", WEATHER["zh"], "朝阳区天气怎样？", (({"name": "amap_weather", "arguments": {"location": "朝阳区"}}, "晴，25度"),), ("25度",), "晴，25度")
CALL = 'Action: amap_weather\nAction Input: {"location": "朝阳区"}'
MALFORMED = {  # what a model says, request after request; the last is said again for ever
    "good": [CALL, "晴，25度"], "no_action_input": ["Action: amap_weather"], "bad_json": ['Action: amap_weather\nAction Input: {"location": "朝', "?"],
    "unknown_tool": ["Action: no_such\nAction Input: {}", "?"], "no_argument": ["Action: amap_weather\nAction Input: {}", "?"],
    "full_width": ["Action：amap_weather\nAction Input：{}"], "pretty_json": ['Action: amap_weather\nAction Input: {\n "location": "朝阳区"\n}', "?"],
    "two_actions": [CALL + "\n" + CALL, "?"], "endless": [CALL], "plain_string": ["Action: amap_weather\nAction Input: 朝阳区", "?"],
    "json5": ["Action: amap_weather\nAction Input: {'location': '朝阳区',}", "?"], "space_after_name": ["Action: amap_weather \nAction Input: {}", "?"],
    "empty": [""], "words_around": ["工具调用\n" + CALL + "\n\n", "?"], "wrong_tool_first": ['Action: image_gen\nAction Input: {}', CALL, "?"]}


def in_process(case, said, execute=None):
    """Our loop's transcript of a visit in which the model says these things; and the script of what it asked."""
    script, say = {}, iter([*said, *[said[-1]] * agentfabric.MAX_TURNS])

    def ask(messages):
        script[json.dumps(messages)] = next(say)
        return script[json.dumps(messages)]

    return agent.run(case.tools, case.query, ask, execute or scoring.case_tools(case), instruction="x"), script


def visit_of(case, id, **more):
    return {"id": id, "query": case.query, "tools": case.tools, "instruction": "x",
            "results": [[call["name"], result] for call, result in case.calls], **more}


LIVE = {"live-zh": (WEATHER["zh"], "朝阳区天气怎样？画一张图", [CALL, 'Action: image_gen\nAction Input: {"text": "晴", "resolution": "720*1280"}', "好了"]),
        "live-en": (WEATHER["en"], "Weather in Oslo?", ['Action: amap_weather\nAction Input: {"location": "Oslo"}', "-2"]),
        "live-nowhere": (WEATHER["en"], "Weather in Nowhere?", ['Action: amap_weather\nAction Input: {"location": "Nowhere"}', "?"])}


def local(call):
    """What a local tool answers, or the runtime's words for its error."""
    try:
        return LOCAL[call.name](agentfabric.parse_arguments(call.arguments))
    except ValueError as error:
        return f"Tool api {call.name} failed to call. Args: {call.arguments}.Details: {str(error)[:200]}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run of the real RolePlay over all visits of this file: transcripts by id, our own, and what was recorded."""
    folder, ours, script = tmp_path_factory.mktemp("roleplay"), {}, script_of(ROWS)
    rows = [visit for row in ROWS for visit in roleplay.visits_of(row)]
    for name, said in MALFORMED.items():
        case = replace(CASE, query=CASE.query + name)
        ours[name], more = in_process(case, said)
        script |= more
        rows.append(visit_of(case, name))
    for name, (tools, query, said) in LIVE.items():
        case = scoring.Case("", tools, query, (), (), "")
        ours[name], more = in_process(case, said, local)
        script |= more
        rows.append(visit_of(case, name, results=None))
    with scripted_teacher(script) as teacher, recorder.recording(teacher, folder / "heard.jsonl") as url:
        transcripts = roleplay.visits(rows, url, NAME, folder / "made.jsonl", quiet=True)
    return {one.id: one for one in transcripts}, ours, read_jsonl(folder / "heard.jsonl"), rows, folder / "made.jsonl"


@real
def test_every_request_is_byte_for_byte_ours(made):
    """The teacher has answered every one, and it knows only ours: both languages, roles, knowledge, history, odd tools."""
    transcripts, _, heard, *_ = made
    assert {one.error for one in transcripts.values()} == {None} and {line["status"] for line in heard} == {200}
    assert sum(one.requests for one in transcripts.values()) == len(heard)
    first = heard[0]["request"]
    assert first["stop"] == list(agentfabric.STOP_WORDS) and not {"temperature", "max_tokens"} & set(first)
    assert set(script_of(ROWS)) <= {json.dumps(line["request"]["messages"]) for line in heard}


@real
def test_the_runtime_of_the_seed_recipes_sends_the_older_wording(tmp_path, monkeypatch):
    """0.7.1, from its own wheel: the same requests but for the sentence on how to answer."""
    def older(messages):
        for language in ("zh", "en"):
            new, old = (json.dumps(agentfabric._ANSWER[language, version])[1:-1] for version in ("0.7.2", "0.7.1"))
            messages = messages.replace(new, old)
        return messages

    monkeypatch.setenv("PYTHONPATH", str(downloads.from_wheel("modelscope-agent", "0.7.1", SHA256_071)))
    script = {older(messages): reply for messages, reply in script_of(ROWS).items()}
    rows = [visit for row in ROWS for visit in roleplay.visits_of(row)]
    with scripted_teacher(script) as teacher, recorder.recording(teacher, tmp_path / "heard.jsonl") as url:
        made = roleplay.visits(rows, url, NAME, tmp_path / "made.jsonl", quiet=True)
    assert {one.error for one in made} == {None}
    assert set(script) == {json.dumps(line["request"]["messages"]) for line in read_jsonl(tmp_path / "heard.jsonl")}


@real
@pytest.mark.parametrize("name", [*MALFORMED, *LIVE])
def test_the_real_loop_and_ours_agree(made, name):
    transcripts, ours, *_ = made
    bare = [replace(step, messages=()) for step in ours[name]]
    assert list(transcripts[name].steps) == bare
    case = replace(CASE, tools=WEATHER["zh"])
    assert scoring.judge(case, list(transcripts[name].steps)) == scoring.judge(case, bare)
    assert transcripts[name].requests == len(bare) - (bare[-1].kind == "gave_up")


@real
def test_recordings_of_the_real_loop_become_the_rows_again(made):
    wanted = {json.dumps(row["messages"]) for row in ROWS if row["id"] != "long"}  # its observation was cut on the way
    found, _ = recordings.rows_of(json.dumps(line) for line in made[2])
    assert wanted <= {json.dumps(row["messages"]) for _, row in found}


@real
def test_what_is_made_is_not_made_again_and_a_failing_server_ends_a_visit_not_the_run(made):
    """A server double: one chat answers too late, one breaks off, one sends no JSON, one ends at the token limit."""
    transcripts, _, _, rows, out = made
    asked = []

    async def chat(request):
        asked.append((await request.json())["messages"][-1]["content"])
        name = asked[-1].rpartition(")")[2]

        def events():
            if name == "slow":
                time.sleep(6)
            if name == "nonsense":
                yield b"data: {nonsense\n\n"
            yield b'data: {"choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": null}]}\n\n'
            if name != "broken":
                yield b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'

        status = 500 if name == "error" else 200
        return StreamingResponse(events(), status, media_type="text/event-stream")

    names = ["slow", "nonsense", "broken", "limit", "error"]
    with recorder.serving(Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])) as address:
        found = roleplay.visits([*rows, *({**visit_of(CASE, name), "query": name} for name in names)], f"{address}/v1",
                                NAME, out, timeout=1.5, parallel=3, quiet=True)
    assert found[:len(rows)] == list(transcripts.values())
    assert {text.rpartition(")")[2] for text in asked} == set(names)
    slow, nonsense, broken, limit, error = found[len(rows):]
    assert "within 1.5 s" in slow.error and nonsense.error and "broke off" in broken.error and "InternalServerError" in error.error
    assert [one.steps[-1].kind for one in (slow, nonsense, broken, error)] == ["gave_up"] * 4
    assert limit.error is None and limit.steps == (agent.Step("answer", "half", raw="half", finished=False),)


def run(tmp_path, rows, url="http://127.0.0.1:9/v1", model=NAME):
    """The command line in this process: its exit code and nothing of the runtime, which is loaded last."""
    (tmp_path / "visits.jsonl").write_text(rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows)), "utf-8")
    return roleplay.main([str(tmp_path / "visits.jsonl"), "--to", url, "--model", model, "--out", str(tmp_path / "o.jsonl")])


@pytest.mark.parametrize(("rows", "says"), [
    ("{", "not .jsonl"), ([{"id": "a", "query": "b"}], "visit 1: no tools"), ("[1]", "visit 1: no id, query, tools"),
    ([{"id": "a", "query": "b", "tools": [tool()]}], "no results for book_hotel; the tools that need none are amap_weather, image_gen"),
    ([visit_of(CASE, "a")], "no connection to http://127.0.0.1:9/v1")])
def test_what_cannot_be_visited_says_why(tmp_path, capsys, rows, says):
    assert run(tmp_path, rows) == 1
    assert says in capsys.readouterr().err and not (tmp_path / "o.jsonl").exists()


def test_a_model_that_is_not_served_is_named_with_those_that_are(tmp_path, capsys):
    with scripted_teacher({}) as url:
        assert run(tmp_path, [visit_of(CASE, "a")], url, "other") == 1
    assert f"no model 'other', but {NAME}" in capsys.readouterr().err


def test_without_its_environment_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(roleplay, "PYTHON", tmp_path / "python")
    with pytest.raises(roleplay.RolePlayError, match="make roleplay"):
        roleplay.visits([], "http://127.0.0.1:9/v1", "m", tmp_path / "out.jsonl")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_role_reads_back_from_its_text(language):
    for role in (ROLE, BOT, {"name": "a.b", "description": "。\n", "instruction": "x\n下面你将开始扮演y"}):
        assert roleplay.role_of(roleplay.role_text(role, language)) == role
    with pytest.raises(ValueError, match="You are"):
        roleplay.role_of("You are a bot.")


# the addition set
@pytest.fixture(scope="module")
def addition():
    return read_jsonl(ROOT / "data" / "agentfabric_addition.jsonl")


def test_the_addition_set_is_what_its_script_says(addition):
    """The file was recorded from the real RolePlay; that it is still what the script writes needs no RolePlay."""
    def content(row):
        return {key: value for key, value in row.items() if key not in ("id", "source")}
    assert [content(row) for row in addition] == [content(row) for row in author()]
    assert {row["source"] for row in addition} == {"scripted teacher"} and len({row["id"] for row in addition}) == len(addition) == 488


def test_the_addition_sets_tools_are_in_no_other_set(addition):
    from helpers.catalogue_reader import load_catalogue
    from helpers.tools import REGISTRY

    own = {one["function"]["name"] for row in addition for one in row["tools"]}
    others = {one.name for domain in load_catalogue()[0] for one in domain.tools} | set(REGISTRY) | set(LOCAL)
    assert len(own) == 42 and not own & others


def test_the_addition_set_is_as_varied_as_its_card_says(addition):
    texts = [json.dumps(row, ensure_ascii=False) for row in addition]
    languages = [agentfabric.language_of(row["messages"][0]["content"]) for row in addition]
    turns = [sum(message["role"] == "user" for message in row["messages"]) for row in addition]
    calls = [sum(message["role"] == "tool_call" for message in row["messages"]) for row in addition]
    assert languages.count("zh") == languages.count("en") == 244
    assert 200 <= sum("knowledge" in row for row in addition) <= 288
    assert len({row["role"] for row in addition if "role" in row}) == 12
    assert sum(count > 1 for count in turns) > 60 and sum(count > 1 for count in calls) > 120 and 0 in calls
    assert sum("http" in text for text in texts) > 200 and sum("\n\n" in row["instruction"] for row in addition) > 400
    assert (ROOT / "data" / "agentfabric_addition.jsonl").stat().st_size < 3e6


def test_the_door_for_data_lets_every_addition_row_in(addition):
    from helpers.sources import read_rows
    rows = list(read_rows(ROOT / "data" / "agentfabric_addition.jsonl"))
    keys = ("tools", "messages", "instruction", "role", "knowledge")
    assert [{key: row.get(key) for key in keys} for row in rows] == [{key: row.get(key) for key in keys} for row in addition]
