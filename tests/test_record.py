"""The recorder passes all on and keeps every chat; recordings become rows, or are rejected."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import call_message, tool
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from helpers import agentfabric, convert, data
from helpers.agentfabric import Unreadable
from helpers.assets import read_jsonl
from helpers.record import __main__ as command
from helpers.record.prompts import read_query, read_system
from helpers.record.proxy import recording, serving
from helpers.record.rows import from_conversation, rows_of
from helpers.record.scripted import scripted_teacher

SAID = [{"role": "system", "content": "s"}, {"role": "user", "content": "你好"}]
CHAT, REPLY = {"model": "m", "messages": SAID}, "您好！" * 50
CALL = "Action: book_hotel\nAction Input: "
GOOD = CALL + '{"city": "Lisbon", "nights": 2}'
HARD = "a 天.。:：()[]{}<>\"'\\/#!?\n01"
FINE = "Today it is sunny, with 25 degrees."
IMAGE = "![IMAGEGEN](https://x.example/a.png)"
GENUINE = """roleplay_zh_1tool roleplay_en_1tool roleplay_zh_2tools roleplay_zh_1tool_v071
roleplay_en_1tool_v071 roleplay_zh_keepstop agentfabric_zh_1tool agentfabric_zh_2tools
agentfabric_en_1tool mal_j_json5 mal_m_after_obs_no_stop"""


@pytest.fixture(scope="module")
def teacher():
    with scripted_teacher({json.dumps(SAID): REPLY}) as url:
        yield url


def post(url, **more):
    options = {"headers": {"Authorization": "Bearer sk-secret"}, "trust_env": False}
    return httpx.post(f"{url}/chat/completions", json={**CHAT, **more}, timeout=10, **options)


def test_whole_and_streamed_replies_pass_and_are_kept_alike_many_at_once(teacher, tmp_path):
    out, bodies = tmp_path / "deep" / "recordings.jsonl", []
    for number in range(30):
        bodies.append({**CHAT, "stream": number > 14, "user": [number] * 2000})
    with recording(teacher, out) as url, ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda body: post(url, **body).text, bodies))
    assert replies == [post(teacher, **body).text for body in bodies]
    kept = sorted(read_jsonl(out), key=lambda line: line["request"]["user"])
    assert [line["request"] for line in kept] == bodies
    choice = {"index": 0, "message": {"role": "assistant", "content": REPLY}}
    assert all(line["reply"]["choices"] == [{**choice, "finish_reason": "stop"}] for line in kept)
    assert {*kept[0]} == {"time", "request", "reply", "status"}
    assert "sk-secret" not in out.read_text("utf-8"), "no header is kept"


def test_errors_pass_and_are_kept(teacher, tmp_path):
    async def half():
        yield b'data: {"choices": [{"delta": {"content": "ha'
        raise RuntimeError("the server breaks off")

    async def answer(request):
        if request.method == "POST":
            return StreamingResponse(half(), media_type="text/event-stream")
        return JSONResponse([request.headers["x-mine"], request.url.query], 418)

    routes = [Route("/v1/{path:path}", answer, methods=["GET", "POST"])]
    out = tmp_path / "r.jsonl"
    with serving(Starlette(routes=routes)) as server, recording(f"{server}/v1", out) as url:
        other = httpx.get(f"{url}/odd?a=1", headers={"x-mine": "m"}, trust_env=False)
        with pytest.raises(httpx.HTTPError):
            post(url)
    assert (other.status_code, other.json()) == (418, ["m", "a=1"])
    with recording(teacher, out) as url:
        refused = post(url, messages=SAID[:1])
    with recording("http://127.0.0.1:9/v1", out) as url:
        nobody = post(url)
    assert "not in the script" in refused.text and "http://127.0.0.1:9/v1" in nobody.text
    kept = [(line["status"], line["reply"]) for line in read_jsonl(out)]
    assert kept[0] == (200, {"error": "the reply broke off"})
    assert kept[1:] == [(404, refused.json()), (502, nobody.json())]


def test_what_cannot_start_says_why(teacher, tmp_path, capsys):
    port = httpx.URL(teacher).port
    for words, reason in {
        f"proxy --to {teacher} --port {port} --out {tmp_path}/s": f"port {port} is in use",
        f"proxy --to localhost:80 --port 0 --out {tmp_path}/s": "localhost:80",
        f"proxy --to {teacher} --port 0 --out {tmp_path}": "cannot write",
        f"rows {tmp_path}/none.jsonl --out {tmp_path}/x": "none.jsonl",
    }.items():
        assert command.main(words.split()) == 1 and reason in capsys.readouterr().err


def line(messages, said, reason="stop", status=200):
    choice = {"message": {"role": "assistant", "content": said}, "finish_reason": reason}
    kept = {"request": {"messages": messages}, "reply": {"choices": [choice]}, "status": status}
    return json.dumps(kept)


def lines_of(row, **more):
    """A canonical row as the recorder hears it."""
    for messages, reply in convert.requests_of(row):
        said = reply if isinstance(reply, str) else agentfabric.render_call(**reply)
        yield line(messages, said, **more)


def rows_and_reasons(lines):
    made, rejected = rows_of(lines)
    return [row for _, row in made], [(one.line, one.reason) for one in rejected]


def test_rows_come_back_from_their_recordings_and_from_their_conversations():
    """The set `addition` has roles, knowledge, both languages, and some rows of several turns."""
    tools = [tool(), tool("天气-1", HARD, required=(), v={"description": HARD})]
    call = call_message("天气-1", v=[HARD, 10**18 + 1, 0.1, True])
    asked, answer = {"role": "user", "content": HARD}, {"role": "assistant", "content": "R1" + HARD}
    messages = [asked, call, {"role": "tool_response", "content": '{"v": "R1"}'}, answer]
    rows = [{"tools": tools, "messages": messages, "instruction": HARD, "knowledge": HARD}]
    for one in data.load("addition")[0]:
        rows.append({key: one[key] for key in one if key not in ("id", "source")})
    assert rows_and_reasons(line for row in rows for line in lines_of(row)) == (rows, [])
    for row in rows:
        *_, last = convert.turns_of(row)
        asked, _ = list(convert.requests_of(row))[-1 - len(last.calls)]  # first of the last turn
        listed = [{"from": one["role"], "value": one["content"]} for one in asked]
        listed.append({"from": "assistant", "value": convert.trace_text(last)})
        assert from_conversation({"id": 7, "conversations": repr(listed)}) == {"id": "7", **row}


def test_the_command_names_rows_and_keeps_what_it_rejects(row, two_turns, tmp_path):
    rows = [{**row, "instruction": "Be brief."}, {**two_turns, "instruction": "Be kind."}]
    odd = {
        "{": "not a line of the recorder",
        '{"request": {}, "reply": {}, "status": 200}': "not a line of the recorder",
        line([{"role": "user", "content": None}] * 2, "x"): "not a chat of texts",
        line(SAID, "x"): "the system message is not AgentFabric's",
        next(lines_of(row, status=500)): "the server answered with an error (HTTP 500)",
        '{"conversations": 7}': "conversations are not a list",
    }
    heard, out = tmp_path / "heard.jsonl", tmp_path / "rows.jsonl"
    heard.write_text("\n".join([*odd, "", *lines_of(rows[0]), *lines_of(rows[1])]), "utf-8")
    assert command.main(f"rows {heard} --out {out} --source teacher".split()) == 0
    named = [{"id": f"rows-000{n}", "source": "teacher"} for n in (1, 2)]
    assert read_jsonl(out) == [{**one, **name} for one, name in zip(rows, named)]
    rejected = read_jsonl(tmp_path / "rows.rejected.jsonl")
    for n, (one, (text, reason)) in enumerate(zip(rejected, odd.items(), strict=True), 1):
        assert one["line"] == n and one["reason"].startswith(reason)
        assert one["row"] == ("{\n" if text == "{" else json.loads(text))


def test_a_conversation_is_one_row_and_interleaved_ones_come_apart(row, two_turns):
    row, two_turns = {**row, "instruction": "a"}, {**two_turns, "instruction": "b"}
    one, two = list(lines_of(row)), list(lines_of(two_turns))
    made, rejected = rows_of([two[0], one[0], two[1], one[1], *two[2:]])
    found = [(lines, made_row["instruction"]) for lines, made_row in made]
    assert (found, rejected) == ([([2, 4], "a"), ([1, 3, 5, 6], "b")], [])
    rows, reasons = rows_and_reasons(two[:-1])
    assert rows == [{**rows[0], "messages": two_turns["messages"][:-2]}] and not reasons
    cut = [text.replace('"stop"', '"length"') for text in two[:3]]
    why = [(n, "a reply was cut off") for n in (1, 2, 3)] + [(4, "an earlier turn was rejected")]
    assert rows_and_reasons([*cut, two[3]]) == ([], why)
    rows, reasons = rows_and_reasons([*one, *one])
    assert len(rows) == 1 and reasons == [(n, "the same conversation again") for n in (3, 4)]
    assert rows_and_reasons(one[1:]) == ([], [(1, "the first request of the turn is missing")])


@pytest.mark.parametrize(
    ("said", "result", "becomes"),
    [
        (["工具调用\n" + GOOD + "\nObservation:", "HB-7"], "HB-7", "a row"),
        ([CALL + "{'city': 'Lisbon',}", "HB-7"], "HB-7", "a row"),
        ([GOOD, "Sunny, 25 degrees."], FINE, "a row"),
        ([GOOD, "Fine weather."], FINE, "the answer states nothing"),
        ([GOOD, "![图片](https://x.example/a.png)"], IMAGE, "a row"),
        ([GOOD, "![图片](https://x.example/b.png)"], IMAGE, "the answer leaves out or changes"),
        ([GOOD], "", "the episode ends in a call"),
        ([GOOD, GOOD, "HB-7"], "HB-7", "a call is made twice"),
        ([GOOD + "\n" + GOOD, "HB-7"], "HB-7", "a reply with several calls"),
        ([GOOD + "\nObservation: <result>1", "1"], "1", "the model wrote an observation"),
        (["Action: book_hotel \nAction Input: {}", "1"], "1", "a call names a tool"),
        ([CALL + '{"city": 7}', "1"], "1", "a call's arguments do not fit"),
        ([CALL + "Lisbon", "1"], "1", "a call's arguments are not"),
        ([CALL + "{\n}", "1"], "1", "a call's arguments are not"),
        ([GOOD, "Sorry."], "Tool api x failed to call. Args: {}.Details: x", "a tool failed"),
        ([GOOD, "Sorry."], '{"error": "full"}', "a tool failed"),
        (["Action：book_hotel\nAction Input：{}"], "", "the answer holds a call"),
    ],
)
def test_good_episodes_become_rows_and_others_have_a_reason(row, said, result, becomes):
    messages, lines = next(convert.requests_of(row))[0], []
    for one in said:
        lines.append(line(messages, one))
        messages = agentfabric.next_request(messages, one, result)
    rows, rejected = rows_and_reasons(lines)
    reasons = [(number, reason[: len(becomes)]) for number, reason in rejected]
    every = [(number, becomes) for number in range(1, len(said) + 1)]
    assert (len(rows), reasons) == ((1, []) if becomes == "a row" else (0, every))


@pytest.mark.parametrize("wording", ["0.7.1", "0.7.2"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_prompts_of_both_versions_read_back_and_uploads_are_refused(wording, language):
    parts = {"instruction": "a\n\nb", "language": language, "wording": wording}
    for tools in ([], [tool(), tool("天气-1", "查天气。\n\nParameters: {}")]):
        prompt = {"tools": tools, "knowledge": "# 工具\n\n" * 3, **parts}
        assert read_system(agentfabric.system_prompt(**prompt)) == prompt
        prefix = agentfabric.query_prefix(tools, language, role="R(x)", knowledge=True)
        assert read_query(prefix + "(q)", prompt) == ("R(x)", "(q)")
    with pytest.raises(Unreadable, match="uploaded"):
        read_query(prefix + '[上传文件 "a.txt"]q', prompt)


@pytest.mark.parametrize("name", GENUINE.split())
def test_genuine_recordings_become_rows(shared, name):
    """Of the first two requests; the first reply is what the second adds, its own is made up."""
    files = [shared / "wire" / f"{name}_0{number}.json" for number in (0, 1)]
    sent = [json.loads(file.read_text("utf-8"))["body"]["messages"] for file in files]
    added = sent[1][-1]["content"].removeprefix(sent[0][-1]["content"])
    reply, result = added.removesuffix("</result>\nAnswer:").split("\nObservation: <result>")
    [(numbers, row)], rejected = rows_of([line(sent[0], reply), line(sent[1], f"So: {result}")])
    assert numbers == [1, 2] and not rejected
    kept = [message["role"] for message in row["messages"]]
    assert kept == ["user", "tool_call", "tool_response", "assistant"]
    if "v071" not in name:
        assert next(convert.requests_of(row))[0] == sent[0]
