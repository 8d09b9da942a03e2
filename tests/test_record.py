"""The recorder passes all on and keeps every chat; recordings become rows, or are rejected."""

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

from helpers import agent, agentfabric, convert
from helpers.agentfabric import Unreadable
from helpers.assets import KitError, read_jsonl, write_jsonl
from helpers.record import __main__ as command
from helpers.record.prompts import read_query, read_system
from helpers.record.proxy import recording, serving
from helpers.record.rows import from_conversation, rows_of
from helpers.record.scripted import NAME, script_of, scripted_teacher

SAID = [{"role": "system", "content": "s"}, {"role": "user", "content": "你好"}]
CHAT = {"model": NAME, "messages": SAID}
GOOD = 'Action: book_hotel\nAction Input: {"city": "Lisbon", "nights": 2}'


@pytest.fixture(scope="module")
def teacher():
    with scripted_teacher({json.dumps(SAID): "您好！" * 50}) as url:
        yield url


def post(url, **more):
    body = {**CHAT, **more}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=10, trust_env=False)


# the proxy, over real HTTP
def test_whole_and_streamed_replies_pass_and_are_kept_alike(teacher, tmp_path):
    out = tmp_path / "deep" / "recordings.jsonl"
    secret = {"headers": {"Authorization": "Bearer sk-secret"}, "trust_env": False}
    with recording(teacher, out) as url:
        whole = httpx.post(f"{url}/chat/completions", json=CHAT, **secret)
        streamed = post(url, stream=True)
    assert whole.json() == post(teacher).json()
    assert streamed.text == post(teacher, stream=True).text
    assert streamed.text.endswith("data: [DONE]\n\n")
    kept = read_jsonl(out)
    assert [line["request"] for line in kept] == [CHAT, {**CHAT, "stream": True}]
    message = {"role": "assistant", "content": "您好！" * 50}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert [line["reply"]["choices"] for line in kept] == [choices, choices]
    assert "sk-secret" not in out.read_text("utf-8")
    assert all(set(line) == {"time", "request", "reply", "status"} for line in kept)


def test_errors_pass_and_are_kept(teacher, tmp_path):
    async def breaks_off(request):
        async def half():
            yield b'data: {"choices": [{"delta": {"content": "ha'
            raise RuntimeError("the server breaks off")

        return StreamingResponse(half(), media_type="text/event-stream")

    async def odd(request):
        said = [request.headers["x-mine"], request.url.query]
        return JSONResponse(said, 418, {"x-theirs": "b"})

    routes = [Route("/v1/chat/completions", breaks_off, methods=["POST"]), Route("/v1/odd", odd)]
    out = tmp_path / "r.jsonl"
    with serving(Starlette(routes=routes)) as server, recording(f"{server}/v1", out) as url:
        other = httpx.get(f"{url}/odd?a=1&b=2", headers={"x-mine": "m"}, trust_env=False)
        with pytest.raises(httpx.HTTPError):
            post(url)
    assert (other.status_code, other.headers["x-theirs"]) == (418, "b")
    assert other.json() == ["m", "a=1&b=2"]
    with recording(teacher, out) as url:
        refused = post(url, messages=SAID[:1])
    with recording("http://127.0.0.1:9/v1", out) as url:
        nobody = post(url)
    assert "not in the script" in refused.text and "http://127.0.0.1:9/v1" in nobody.text
    kept = [(line["status"], line["reply"]) for line in read_jsonl(out)]
    assert kept == [
        (200, {"error": "the reply broke off"}),
        (404, refused.json()),
        (502, nobody.json()),
    ]


def test_many_at_once_never_mix_lines(teacher, tmp_path):
    out = tmp_path / "r.jsonl"
    with recording(teacher, out) as url, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: post(url, stream=bool(n % 2), user=f"{n}" * 9000), range(30)))
    assert {line["request"]["user"] for line in read_jsonl(out)} == {
        f"{n}" * 9000 for n in range(30)
    }


def test_what_cannot_start_says_why(teacher, tmp_path, capsys):
    port = teacher.split(":")[2].split("/")[0]
    options = ["--to", teacher, "--port", port, "--out", str(tmp_path / "s.jsonl")]
    assert command.main(["proxy", *options]) == 1
    assert f"port {port} is in use" in capsys.readouterr().err
    for to, out, says in [
        ("localhost:80", "r.jsonl", "localhost:80"),
        (teacher, "", "cannot write"),
    ]:
        with pytest.raises(KitError, match=says), recording(to, tmp_path / out):
            pass
    assert command.main(["rows", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "x")]) == 1
    assert "none.jsonl" in capsys.readouterr().err


# recordings → rows
def line(messages, said, reason="stop", status=200):
    choice = {"message": {"role": "assistant", "content": said}, "finish_reason": reason}
    request = {"messages": messages, "model": "m"}
    return json.dumps({"request": request, "reply": {"choices": [choice]}, "status": status})


def lines_of(row, **more):
    """A canonical row as the recorder hears it."""
    for messages, reply in convert.requests_of(row):
        said = reply if isinstance(reply, str) else agentfabric.render_call(**reply)
        yield line(messages, said, **more)


def rows_and_reasons(lines):
    made, rejected = rows_of(lines)
    return [row for _, row in made], [(one.line, one.reason) for one in rejected]


TEXT = st.text(st.sampled_from("ab 天.。:：()[]{}<>\"'\\/#!?\n01"), min_size=1, max_size=30)
TEXT = TEXT.filter(str.strip)
WORD = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
WORDS = st.lists(WORD, min_size=1, max_size=3, unique=True)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
VALUE = TEXT | st.integers(-(10**18), 10**18) | st.booleans() | FLOAT | st.lists(st.integers(0, 9))
PARTS = [
    {},
    {"role": "天气(助手)"},
    {"knowledge": "K\n\n# 工具\n[1]"},
    {"role": "Bot", "knowledge": "Empty Response"},
]


@st.composite
def canonical_rows(draw):
    """Rows of one to three turns with up to two calls each."""
    tools = []
    for name in draw(WORDS):
        keys = {key: {"description": draw(TEXT)} for key in draw(WORDS)}
        tools.append(tool(name, draw(TEXT), required=(), **keys))
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        results = []
        for _ in range(draw(st.integers(0, 2))):
            function = draw(st.sampled_from(tools))["function"]
            arguments = {key: draw(VALUE) for key in function["parameters"]["properties"]}
            call = call_message(function["name"], **arguments)
            if call not in messages:
                results.append(f"R{len(messages)}")
                result = json.dumps({"value": results[-1]})
                messages += [call, {"role": "tool_response", "content": result}]
        messages.append({"role": "assistant", "content": " ".join([draw(TEXT), *results])})
    parts = {"instruction": draw(TEXT), **draw(st.sampled_from(PARTS))}
    return {"tools": tools, "messages": messages, **parts}


@settings(max_examples=150, deadline=None)
@given(canonical_rows())
def test_rows_come_back_from_their_recordings_and_from_their_traces(row):
    assert rows_and_reasons(lines_of(row)) == ([row], [])
    (trace,) = convert.render_rows([{"id": "r", **row}], "trace")


def test_our_loop_with_a_teacher_gives_the_rows_that_the_teacher_knows(row, two_turns, tmp_path):
    """Scripted teacher → recorder → agent.run → rows."""
    rows = [{**row, "instruction": "Be brief."}, {**two_turns, "instruction": "Be kind."}]
    heard, out = tmp_path / "heard.jsonl", tmp_path / "rows.jsonl"
    with scripted_teacher(script_of(rows)) as teacher, recording(teacher, heard) as url:

        def ask(messages):
            return post(url, messages=messages).json()["choices"][0]["message"]["content"]

        for one in rows:
            history = []
            for turn in convert.turns_of(one):
                results = iter([result for _, result in turn.calls])
                parts = {"instruction": one["instruction"], "history": history}
                agent.run(one["tools"], turn.query, ask, lambda _, it=results: next(it), **parts)
                answer = {"role": "assistant", "content": convert.trace_text(turn)}
                history += [{"role": "user", "content": turn.query}, answer]
    assert command.main(["rows", str(heard), "--out", str(out), "--source", "teacher"]) == 0
    named = [{"id": f"rows-000{n}", "source": "teacher"} for n in (1, 2)]
    assert read_jsonl(out) == [{**one, **name} for one, name in zip(rows, named)]
    assert read_jsonl(tmp_path / "rows.rejected.jsonl") == []
    with pytest.raises(ValueError, match="r1"):
        other = {"role": "assistant", "content": "HB-7 too"}
        script_of([row, {**row, "messages": [*row["messages"][:-1], other]}])


def test_a_conversation_is_one_row_and_interleaved_ones_come_apart(row, two_turns):
    row, two_turns = {**row, "instruction": "a"}, {**two_turns, "instruction": "b"}
    one, two = list(lines_of(row)), list(lines_of(two_turns))
    made, rejected = rows_of([two[0], one[0], two[1], one[1], *two[2:]])
    found = sorted((lines, made_row["instruction"]) for lines, made_row in made)
    assert found == [([1, 3, 5, 6], "b"), ([2, 4], "a")] and not rejected
    rows, reasons = rows_and_reasons(two[:-1])
    assert [made_row["messages"] for made_row in rows] == [
        two_turns["messages"][:-2]
    ] and not reasons
    cut = [text.replace('"stop"', '"length"') for text in two[:3]]
    rows, reasons = rows_and_reasons([*cut, two[3]])
    why = [(n, "a reply was cut off") for n in (1, 2, 3)] + [(4, "an earlier turn was rejected")]
    assert (rows, reasons) == ([], why)
    rows, reasons = rows_and_reasons([*one, *one])
    assert len(rows) == 1 and reasons == [(n, "the same conversation again") for n in (3, 4)]
    assert rows_and_reasons(one[1:]) == ([], [(1, "the first request of the turn is missing")])


FINE = "Today it is sunny, with 25 degrees."
IMAGE = "![IMAGEGEN](https://x.example/a.png)"
NOTHING = "the answer states nothing of a result"
UNSEEN = "the answer holds a call that the runtime does not see"
NO_OBJECT = "a call's arguments are not a JSON object on one line"


@pytest.mark.parametrize(
    ("said", "result", "becomes"),
    [
        ([GOOD, "Booked: HB-7."], "HB-7", "a row"),
        (["工具调用\n" + GOOD, "HB-7"], "HB-7", "a row"),
        ([GOOD + "\nObservation:", "HB-7"], "HB-7", "a row"),
        (["Action: book_hotel\nAction Input: {'city': 'Lisbon',}", "HB-7"], "HB-7", "a row"),
        (["Hello!"], "", "a row"),
        ([GOOD, "Booked."], "HB-7", NOTHING),
        ([GOOD, "Sunny, 25 degrees."], FINE, "a row"),
        ([GOOD, "Fine weather."], FINE, NOTHING),
        ([GOOD, "![图片](https://x.example/a.png)"], IMAGE, "a row"),
        ([GOOD, "![图片](https://x.example/b.png)"], IMAGE, "the answer leaves out or changes an "),
        ([GOOD], "", "the episode ends in a call"),
        ([GOOD, GOOD, "HB-7"], "HB-7", "a call is made twice"),
        ([GOOD + "\n" + GOOD, "HB-7"], "HB-7", "a reply with several calls"),
        (
            [GOOD + "\nObservation: <result>1</result>\nAnswer: 1", "1"],
            "1",
            "the model wrote an obs",
        ),
        (["Action: book_flat\nAction Input: {}", "1"], "1", "a call names a tool that the prompt"),
        (
            ['Action: book_hotel\nAction Input: {"city": 7}', "1"],
            "1",
            "a call's arguments do not fit",
        ),
        (["Action: book_hotel\nAction Input: [1]", "1"], "1", NO_OBJECT),
        (["Action: book_hotel\nAction Input: {\n}", "1"], "1", NO_OBJECT),
        ([GOOD, "Sorry."], "Tool api x failed to call. Args: {}.Details: x", "a tool failed"),
        ([GOOD, "Sorry."], '{"error": "full"}', "a tool failed"),
        (["Action：book_hotel\nAction Input：{}"], "", UNSEEN),
        ([""], "", "an empty turn of assistant"),
    ],
)
def test_good_episodes_become_rows_and_others_have_a_reason(row, said, result, becomes):
    messages, lines = next(convert.requests_of(row))[0], []
    for one in said:
        lines.append(line(messages, one))
        messages = agentfabric.next_request(messages, one, result)
    rows, rejected = rows_and_reasons(lines)
    if becomes == "a row":
        assert len(rows) == 1 and not rejected
    else:
        assert not rows and [number for number, _ in rejected] == list(range(1, len(said) + 1))
        assert {reason.startswith(becomes) for _, reason in rejected} == {True}


def test_lines_that_are_no_good_chat_are_rejected(row):
    odd = {
        "{": "not a line of the recorder",
        "[]": "not a line of the recorder",
        '{"request": {}, "reply": {}, "status": 200}': "not a line of the recorder",
        line([], "x"): "not a chat of texts with a system message",
        line([{"role": "user", "content": None}] * 2, "x"): "not a chat of texts with a system m",
        line(SAID, "x"): "the system message is not AgentFabric's",
        next(lines_of(row, status=500)): "the server answered with an error (HTTP 500)",
        '{"conversations": 7}': "conversations are not a list of from and value",
    }
    made, rejected = rows_of([*odd, "\n", *lines_of({**row, "instruction": "x"})])
    assert [lines for lines, _ in made] == [[10, 11]]
    assert [one.line for one in rejected] == list(range(1, 9))
    for one, (text, reason) in zip(rejected, odd.items()):
        assert one.reason.startswith(reason) and one.row in (text, json.loads(text or "0"))


# prompts, read back
@pytest.mark.parametrize("wording", ["0.7.1", "0.7.2"])
@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("knowledge", [None, "Empty Response", "# 工具\n\n" * 3])
def test_prompts_read_back(wording, language, knowledge):
    parts = {"language": language, "wording": wording, "knowledge": knowledge}
    for tools in ([], [tool()], [tool(), tool("天气-1", "查天气。\n\nParameters: {}")]):
        text = agentfabric.system_prompt(tools, "a\n\nb", **parts)
        prompt = read_system(text)
        assert vars(prompt) == {"tools": tools, "instruction": "a\n\nb", **parts}
        for role in ("", "R(x)"):
            known = bool(knowledge)
            prefix = agentfabric.query_prefix(tools, language, role=role, knowledge=known)
            assert read_query(prefix + "(q)", prompt) == (role, "(q)")
        with pytest.raises(Unreadable, match="uploaded"):
            read_query(prefix + '[上传文件 "a.txt"]q', prompt)
        with pytest.raises(Unreadable, match="not AgentFabric's"):
            read_system(text[:-1])
