"""The recorder passes all on and keeps every chat; recordings become rows, or are rejected."""

import json
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
from helpers.assets import KitError, read_jsonl
from helpers.record import __main__ as command
from helpers.record.prompts import read_query, read_system
from helpers.record.proxy import recording, serving
from helpers.record.rows import from_conversation, rows_of
from helpers.record.scripted import NAME, script_of, scripted_teacher

SAID = [{"role": "system", "content": "s"}, {"role": "user", "content": "你好"}]
CHAT = {"model": NAME, "messages": SAID}
CALL = "Action: book_hotel\nAction Input: "
GOOD = CALL + '{"city": "Lisbon", "nights": 2}'


@pytest.fixture(scope="module")
def teacher():
    with scripted_teacher({json.dumps(SAID): "您好！" * 50}) as url:
        yield url


def post(url, **more):
    options = {"headers": {"Authorization": "Bearer sk-secret"}, "trust_env": False}
    return httpx.post(f"{url}/chat/completions", json={**CHAT, **more}, timeout=10, **options)


# the proxy, over real HTTP
def test_whole_and_streamed_replies_pass_and_are_kept_alike(teacher, tmp_path):
    out = tmp_path / "deep" / "recordings.jsonl"
    with recording(teacher, out) as url:
        whole, streamed = post(url), post(url, stream=True)
    assert whole.json() == post(teacher).json()
    assert streamed.text == post(teacher, stream=True).text
    kept = read_jsonl(out)
    assert [line["request"] for line in kept] == [CHAT, {**CHAT, "stream": True}]
    message = {"role": "assistant", "content": "您好！" * 50}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert [line["reply"]["choices"] for line in kept] == [choices, choices]
    assert {*kept[0]} == {"time", "request", "reply", "status"}
    assert "sk-secret" not in out.read_text("utf-8"), "no header is kept"


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
        other = httpx.get(f"{url}/odd?a=1", headers={"x-mine": "m"}, trust_env=False)
        with pytest.raises(httpx.HTTPError):
            post(url)
    assert (other.status_code, other.headers["x-theirs"], *other.json()) == (418, "b", "m", "a=1")
    with recording(teacher, out) as url:
        refused = post(url, messages=SAID[:1])
    with recording("http://127.0.0.1:9/v1", out) as url:
        nobody = post(url)
    assert "not in the script" in refused.text and "http://127.0.0.1:9/v1" in nobody.text
    kept = [(line["status"], line["reply"]) for line in read_jsonl(out)]
    assert kept[0] == (200, {"error": "the reply broke off"})
    assert kept[1:] == [(404, refused.json()), (502, nobody.json())]


def test_many_at_once_never_mix_lines(teacher, tmp_path):
    out = tmp_path / "r.jsonl"
    with recording(teacher, out) as url, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: post(url, stream=n > 15, user=[n] * 2000), range(30)))
    assert sorted(line["request"]["user"][-1] for line in read_jsonl(out)) == list(range(30))


def test_what_cannot_start_says_why(teacher, tmp_path, capsys):
    port = teacher.split(":")[2].split("/")[0]
    options = ["--to", teacher, "--port", port, "--out", str(tmp_path / "s.jsonl")]
    assert command.main(["proxy", *options]) == 1
    assert f"port {port} is in use" in capsys.readouterr().err
    for to, out, says in [("localhost:80", "r", "localhost:80"), (teacher, "", "cannot write")]:
        with pytest.raises(KitError, match=says), recording(to, tmp_path / out):
            pass
    assert command.main(["rows", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "x")]) == 1
    assert "none.jsonl" in capsys.readouterr().err


# recordings → rows
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


TEXT = st.text(st.sampled_from("ab 天.。:：()[]{}<>\"'\\/#!?\n01"), min_size=1, max_size=30)
TEXT = TEXT.filter(str.strip)
WORDS = st.lists(st.text("abc_", min_size=1, max_size=8), min_size=1, max_size=3, unique=True)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
VALUE = TEXT | st.integers(-(10**18), 10**18) | st.booleans() | FLOAT | st.lists(st.integers(0, 9))
MORE = {"role": st.just("天气(助手)"), "knowledge": st.sampled_from(["K\n\n# 工具\n[1]", "Empty"])}
PARTS = st.fixed_dictionaries({"instruction": TEXT}, optional=MORE)


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
    return {"tools": tools, "messages": messages, **draw(PARTS)}


@settings(max_examples=150, deadline=None)
@given(canonical_rows())
def test_rows_come_back_from_their_recordings_and_from_their_conversations(row):
    assert rows_and_reasons(lines_of(row)) == ([row], [])
    *_, last = convert.turns_of(row)
    asked, _ = list(convert.requests_of(row))[-1 - len(last.calls)]  # the first of the last turn
    listed = [{"from": one["role"], "value": one["content"]} for one in asked]
    listed.append({"from": "assistant", "value": convert.trace_text(last)})
    made = from_conversation({"id": 7, "conversations": repr(listed)})
    for one in [*made["messages"], *row["messages"]]:
        one["content"] = one["content"].strip()
    assert made == {"id": "7", **row}


def test_our_loop_with_a_teacher_gives_the_rows_that_the_teacher_knows(row, two_turns, tmp_path):
    rows = [{**row, "instruction": "Be brief."}, {**two_turns, "instruction": "Be kind."}]
    heard, out = tmp_path / "heard.jsonl", tmp_path / "rows.jsonl"
    with scripted_teacher(script_of(rows)) as teacher, recording(teacher, heard) as url:

        def ask(messages):
            return post(url, messages=messages).json()["choices"][0]["message"]["content"]

        for one in rows:
            parts = {"instruction": one["instruction"], "history": []}
            for turn in convert.turns_of(one):
                results = iter([result for _, result in turn.calls])
                agent.run(one["tools"], turn.query, ask, lambda _, it=results: next(it), **parts)
                said = {"user": turn.query, "assistant": convert.trace_text(turn)}
                parts["history"] += [{"role": who, "content": said[who]} for who in said]
    assert command.main(["rows", str(heard), "--out", str(out), "--source", "teacher"]) == 0
    named = [{"id": f"rows-000{n}", "source": "teacher"} for n in (1, 2)]
    assert read_jsonl(out) == [{**one, **name} for one, name in zip(rows, named)]
    assert read_jsonl(tmp_path / "rows.rejected.jsonl") == []


def test_a_conversation_is_one_row_and_interleaved_ones_come_apart(row, two_turns):
    row, two_turns = {**row, "instruction": "a"}, {**two_turns, "instruction": "b"}
    one, two = list(lines_of(row)), list(lines_of(two_turns))
    made, rejected = rows_of([two[0], one[0], two[1], one[1], *two[2:]])
    found = [(lines, made_row["instruction"]) for lines, made_row in made]
    assert (found, rejected) == ([([2, 4], "a"), ([1, 3, 5, 6], "b")], [])
    rows, reasons = rows_and_reasons(two[:-1])
    assert rows == [{**rows[0], "messages": two_turns["messages"][:-2]}] and not reasons
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
        ([CALL + "{'city': 'Lisbon',}", "HB-7"], "HB-7", "a row"),
        ([GOOD, "Booked."], "HB-7", NOTHING),
        ([GOOD, "Sunny, 25 degrees."], FINE, "a row"),
        ([GOOD, "Fine weather."], FINE, NOTHING),
        ([GOOD, "![图片](https://x.example/a.png)"], IMAGE, "a row"),
        ([GOOD, "![图片](https://x.example/b.png)"], IMAGE, "the answer leaves out or changes an "),
        ([GOOD], "", "the episode ends in a call"),
        ([GOOD, GOOD, "HB-7"], "HB-7", "a call is made twice"),
        ([GOOD + "\n" + GOOD, "HB-7"], "HB-7", "a reply with several calls"),
        ([GOOD + "\nObservation: <result>1", "1"], "1", "the model wrote an observation itself"),
        (["Action: book_flat\nAction Input: {}", "1"], "1", "a call names a tool that the prompt"),
        ([CALL + '{"city": 7}', "1"], "1", "a call's arguments do not fit the tool's schema"),
        ([CALL + "[1]", "1"], "1", NO_OBJECT),
        ([CALL + "{\n}", "1"], "1", NO_OBJECT),
        ([GOOD, "Sorry."], "Tool api x failed to call. Args: {}.Details: x", "a tool failed"),
        ([GOOD, "Sorry."], '{"error": "full"}', "a tool failed"),
        (["Action：book_hotel\nAction Input：{}"], "", UNSEEN),
        ([""], "", "an empty turn"),
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


def test_lines_that_are_no_good_chat_are_rejected(row):
    odd = {
        "{": "not a line of the recorder",
        '{"request": {}, "reply": {}, "status": 200}': "not a line of the recorder",
        line([], "x"): "not a chat of texts with a system message",
        line([{"role": "user", "content": None}] * 2, "x"): "not a chat of texts with a system m",
        line(SAID, "x"): "the system message is not AgentFabric's",
        next(lines_of(row, status=500)): "the server answered with an error (HTTP 500)",
        '{"conversations": 7}': "conversations are not a list of from and value",
    }
    made, rejected = rows_of([*odd, "\n", *lines_of({**row, "instruction": "x"})])
    assert [lines for lines, _ in made] == [[9, 10]]
    assert [one.line for one in rejected] == list(range(1, 8))
    for one, (text, reason) in zip(rejected, odd.items()):
        assert one.reason.startswith(reason)
        assert (one.row if isinstance(one.row, str) else json.dumps(one.row)) == text


@pytest.mark.parametrize("wording", ["0.7.1", "0.7.2"])
@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("knowledge", [None, "Empty Response", "# 工具\n\n" * 3])
def test_prompts_read_back(wording, language, knowledge):
    parts = {"language": language, "wording": wording, "knowledge": knowledge}
    for tools in ([], [tool()], [tool(), tool("天气-1", "查天气。\n\nParameters: {}")]):
        text = agentfabric.system_prompt(tools, "a\n\nb", **parts)
        assert (prompt := read_system(text)) == {"tools": tools, "instruction": "a\n\nb", **parts}
        for role in ("", "R(x)"):
            known = bool(knowledge)
            prefix = agentfabric.query_prefix(tools, language, role=role, knowledge=known)
            assert read_query(prefix + "(q)", prompt) == (role, "(q)")
        with pytest.raises(Unreadable, match="uploaded"):
            read_query(prefix + '[上传文件 "a.txt"]q', prompt)
        with pytest.raises(Unreadable, match="not AgentFabric's"):
            read_system(text[:-1])


def wire_lines(shared, name, last):
    """The recorder's lines of a genuine dialogue. A reply is what the next request adds;
    `last` stands for the last one, which was not kept."""
    sent = []
    for path in sorted((shared / "wire").glob(f"{name}_0?.json")):
        sent.append(json.loads(path.read_text("utf-8"))["body"]["messages"])
    for now, after in zip(sent, [*sent[1:], None]):
        if after is None:
            yield line(now, last)
        elif len(after) > len(now):  # the next turn, whose history holds the answer
            yield line(now, after[-2]["content"].rpartition("</result>\nAnswer:")[2])
        else:
            added = after[-1]["content"].removeprefix(now[-1]["content"])
            yield line(now, added.rpartition("\nObservation: <result>")[0])


FINAL = "朝阳区今天晴，25度。 Sunny, 25C. ![IMAGEGEN](http://127.0.0.1/img.png)"
GENUINE = """roleplay_zh_1tool roleplay_en_1tool roleplay_zh_2tools roleplay_zh_1tool_v071
roleplay_en_1tool_v071 roleplay_zh_keepstop agentfabric_zh_1tool agentfabric_zh_2tools
agentfabric_en_1tool mal_j_json5 mal_m_after_obs_no_stop"""
MALFORMED = """mal_b_bad_json mal_c_unknown_tool mal_d_missing_arg mal_f_pretty_json mal_n_wrongtype
mal_g_two_actions mal_i_plain_string mal_k_trailing_space_name"""


@pytest.mark.parametrize("name", [*GENUINE.split(), *MALFORMED.split()])
def test_genuine_recordings_become_rows_unless_a_call_is_malformed(shared, name):
    lines = list(wire_lines(shared, name, FINAL))
    made, rejected = rows_of(lines)
    every = list(range(1, len(lines) + 1))
    if name in MALFORMED:
        assert not made and [one.line for one in rejected] == every
        assert all(one.reason.startswith(("a call", "a reply with")) for one in rejected)
        return
    ((numbers, row),) = made
    assert numbers == every and not rejected
    roles = [message["role"] for message in row["messages"]]
    assert roles.count("tool_call") == (2 if "2tools" in name else 1)
    assert roles.count("user") == (2 if name == "agentfabric_zh_1tool" else 1)
    if name.startswith("agentfabric"):
        assert row["knowledge"] == "Empty Response" and row["role"] in row["instruction"]
    if "v071" not in name:
        first, _ = next(convert.requests_of(row))
        assert first == json.loads(lines[0])["request"]["messages"]
