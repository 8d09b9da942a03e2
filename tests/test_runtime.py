"""Our loop beside ModelScope-Agent's real RolePlay: the same requests, byte for byte, and the same
transcripts. A scripted teacher answers only the requests that our own renderer makes."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from dataclasses import replace

import pytest
from conftest import call_message, tool
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from helpers import agent, agentfabric, assets, evaluate, profiles, split
from helpers.assets import KitError, read_jsonl
from helpers.record.prompts import read_query, read_system
from helpers.record.proxy import recording, serving
from helpers.record.rows import rows_of
from helpers.record.scripted import NAME, script_of, scripted_teacher
from helpers.runtime import agreement, app, roleplay
from helpers.runtime.__main__ import main
from helpers.runtime.app_process import without_token
from helpers.runtime.tools import LOCAL, data

needs_roleplay = pytest.mark.skipif(not roleplay.PYTHON.exists(), reason="needs make roleplay")
SOURCE = os.environ.get("AGENTFABRIC_SRC")
ABSENT = not (SOURCE and app.PYTHON.exists())
needs_app = pytest.mark.skipif(ABSENT, reason="needs AGENTFABRIC_SRC and make agentfabric")
WEATHER, URL = data("tools"), "http://127.0.0.1:9/v1"
ROLE = {"name": "天气助手", "description": "查天气。", "instruction": "先查天气。\n\n再画图。"}
BOT = {"name": "WeatherBot", "description": "weather", "instruction": "Look it up.\n\nThen draw."}


def turn(query, answer, *calls):
    messages = [{"role": "user", "content": query}]
    for name, arguments, result in calls:
        messages += [call_message(name, **arguments), {"role": "tool_response", "content": result}]
    return [*messages, {"role": "assistant", "content": answer}]


def row(id, tools, messages, **more):
    return {"id": id, "tools": tools, "messages": messages, **more}


SUN = ("amap_weather", {"location": "朝阳区"}, "晴，25度")
DRAWN = ("image_gen", {"text": "晴", "resolution": "1024*1024"}, "![IMAGEGEN](https://x.org/a)")
SNOW = ("amap_weather", {"location": "Oslo"}, '{"state": "snow", "degrees": -2}')
LONG = ("amap_weather", {"location": "Oslo"}, "snow " * 1000)
NESTED = {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}}
ODD = tool("odd-tool.v1", 'Nested {braces}, "quotes"\n\nand paragraphs.', (), deep=NESTED)
CALLED = ("odd-tool.v1", {"deep": {"x": [1.5]}}, "{'y': '一'}")
ZH = turn("朝阳区天气怎样？画一张", f"晴，25度。\n{DRAWN[2]}", SUN, DRAWN)
EN, THANKS = turn("Weather in Oslo?", "Snow, -2 degrees.", SNOW), turn("谢谢", "不客气。")
ZH_ROLE = {"instruction": roleplay.role_text(ROLE, "zh"), "role": "天气助手"}
EN_ROLE = {"instruction": roleplay.role_text(BOT, "en"), "role": "WeatherBot"}
ROWS = [
    row("zh-role", WEATHER["zh"], ZH + THANKS, **ZH_ROLE, knowledge="Empty Response"),
    row("zh-one", WEATHER["zh"][:1], turn("你好", "您好！"), instruction="你是天气助手。"),
    row("en-role", WEATHER["en"], EN + turn("Ta!", "Oh."), **EN_ROLE, knowledge="Far.\n\nCold."),
    row("en-one", WEATHER["en"][:1], EN),
    row("en-then-zh", WEATHER["en"][:1], EN + THANKS, instruction="Be brief."),
    row("odd", [ODD, WEATHER["zh"][0]], turn("Hi", "一", CALLED), instruction="x"),
    row("long", WEATHER["en"][:1], turn("?", "Snow.", LONG), knowledge="Far. " * 999 + "远"),
]
EPISODES = [episode for one in ROWS for episode in roleplay.episodes_of(one)]
GOLD = (({"name": "amap_weather", "arguments": {"location": "朝阳区"}}, "晴，25度"),)
CASE = evaluate.Case("", WEATHER["zh"], "朝阳区天气怎样？", GOLD, ("25度",), "晴，25度")
CALL = 'Action: amap_weather\nAction Input: {"location": "朝阳区"}'
PAINT = 'Action: image_gen\nAction Input: {"text": "晴", "resolution": "720*1280"}'
SAID = {  # what a model says, request after request; the last is said again for ever
    "no_action_input": ["Action: amap_weather"],
    "bad_json": ['Action: amap_weather\nAction Input: {"location": "朝', "?"],
    "unknown_tool": ["Action: no_such\nAction Input: {}", "?"],
    "no_argument": ["Action: amap_weather\nAction Input: {}", "?"],
    "full_width": ["Action：amap_weather\nAction Input：{}"],
    "pretty_json": ['Action: amap_weather\nAction Input: {\n "location": "朝阳区"\n}', "?"],
    "two_actions": [CALL + "\n" + CALL, "?"],
    "endless": [CALL],
    "plain_string": ["Action: amap_weather\nAction Input: 朝阳区", "?"],
    "json5": ["Action: amap_weather\nAction Input: {'location': '朝阳区',}", "?"],
    "space_after_name": ["Action: amap_weather \nAction Input: {}", "?"],
    "empty": [""],
    "words_around": ["工具调用\n" + CALL + "\n\n", "?"],
    "wrong_tool_first": ["Action: image_gen\nAction Input: {}", CALL, "?"],
    "live": [CALL, PAINT, "好了"],  # with the local tools
}


def episode_of(id, query=CASE.query, results=(list(SUN[::2]),)):
    return {"id": id, "query": query, "tools": CASE.tools, "instruction": "x", "results": results}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run of the real RolePlay over all episodes of this file: its transcripts by id, ours,
    what was recorded, the episodes, the file of transcripts."""
    ours, script, episodes = {}, script_of(ROWS), list(EPISODES)
    for name, said in SAID.items():
        execute, episode = evaluate.case_tools(CASE), episode_of(name, CASE.query + name)
        if name == "live":
            episode["results"] = None
            execute = lambda call: LOCAL[call.name](json.loads(call.arguments))  # noqa: E731
        say = iter([*said, *[said[-1]] * agentfabric.MAX_TURNS])
        ask = lambda messages, say=say: script.setdefault(json.dumps(messages), next(say))  # noqa: E731
        steps = agent.run(CASE.tools, episode["query"], ask, execute, instruction="x")
        ours[name] = [replace(step, messages=()) for step in steps]
        episodes.append(episode)
    folder = tmp_path_factory.mktemp("roleplay")
    heard, out = folder / "heard.jsonl", folder / "made.jsonl"
    with scripted_teacher(script) as teacher, recording(teacher, heard) as url:
        transcripts = roleplay.episodes(episodes, url, NAME, out, quiet=True)
    return {one.id: one for one in transcripts}, ours, read_jsonl(heard), episodes, out


@needs_roleplay
def test_every_request_is_byte_for_byte_ours(made):
    """Both languages, roles, knowledge, history, odd tools; and the recording becomes the rows."""
    transcripts, _, heard, *_ = made
    assert {one.error for one in transcripts.values()} == {None}
    assert {line["status"] for line in heard} == {200}
    assert sum(one.requests for one in transcripts.values()) == len(heard)
    first = heard[0]["request"]
    assert first["stop"] == list(agentfabric.STOP_WORDS)
    assert not {"temperature", "max_tokens"} & set(first)
    assert set(script_of(ROWS)) <= {json.dumps(line["request"]["messages"]) for line in heard}
    found = [one["messages"] for _, one in rows_of(map(json.dumps, heard))[0]]
    assert all(one["messages"] in found for one in ROWS if one["id"] != "long")  # which was cut


@needs_roleplay
def test_the_real_loop_and_ours_agree(made):
    for name, ours in made[1].items():
        assert made[0][name].steps == ours, name
        assert made[0][name].requests == len(ours) - (ours[-1].kind == "gave_up"), name


@needs_roleplay
def test_what_is_made_is_not_made_again_and_a_bad_server_ends_an_episode_not_the_run(made):
    """A server double answers too late, breaks off, sends no JSON, or ends at the token limit."""
    transcripts, _, _, episodes, out = made
    asked = []

    async def chat(request):
        asked.append((await request.json())["messages"][-1]["content"].rpartition(")")[2])

        def events(name=asked[-1]):
            time.sleep(6 if name == "slow" else 0)
            yield b"data: {nonsense\n\n" if name == "nonsense" else b""
            for delta, reason in ({"content": "half"}, None), ({}, "length"):
                choice = {"index": 0, "delta": delta, "finish_reason": reason}
                if name != "broken" or not reason:
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n".encode()

        return StreamingResponse(events(), 500 if asked[-1] == "error" else 200)

    names = ["slow", "nonsense", "broken", "limit", "error"]
    todo = [*episodes, *(episode_of(name, name) for name in names)]
    with open(out, "a") as file:
        file.write('{"id": "cut off by an interru')
    with serving(Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])) as url:
        server = [f"{url}/v1", NAME, out]
        found = roleplay.episodes(todo, *server, timeout=1.5, parallel=3, quiet=True)
    assert found[: len(episodes)] == list(transcripts.values()) and set(asked) == set(names)
    slow, nonsense, broken, limit, error = found[len(episodes) :]
    assert "within 1.5 s" in slow.error and nonsense.error
    assert "broke off" in broken.error and "InternalServerError" in error.error
    assert {one.steps[-1].kind for one in (slow, nonsense, broken, error)} == {"gave_up"}
    half = agent.Step("answer", "half", raw="half", finished=False)
    assert limit.error is None and limit.steps == [half]


def test_our_loop_sends_what_was_recorded_of_the_real_one(shared):
    """Request by request, given the recorded replies and results: also of malformed replies."""
    good = "roleplay_zh_2tools roleplay_en_1tool_v071 agentfabric_zh_2tools agentfabric_en_1tool"
    files = sorted((shared / "wire").glob("mal_*_00.json"))
    for first in [*files, *(shared / "wire" / f"{name}_00.json" for name in good.split())]:
        same = sorted(first.parent.glob(first.name.replace("_00", "_??")))
        sent = [json.loads(file.read_text("utf-8"))["body"]["messages"] for file in same]
        prompt = read_system(sent[0][0]["content"])
        prompt["role"], query = read_query(sent[0][-1]["content"], prompt)
        del prompt["language"]
        loop = agent.episode(prompt.pop("tools"), query, **prompt)
        step = next(loop)
        for before, after in zip(sent, sent[1:]):
            assert list(step.messages) == before, first.name
            added = after[-1]["content"].removeprefix(before[-1]["content"])
            reply, result = added.removesuffix("</result>\nAnswer:").split(
                "\nObservation: <result>"
            )
            assert loop.send(reply).kind == "call"
            step = loop.send(result)
        assert list(step.messages) == sent[-1], first.name


@needs_roleplay
def test_what_cannot_be_run_says_why(tmp_path, capsys, monkeypatch):
    file, out, unknown = tmp_path / "in.jsonl", tmp_path / "out.jsonl", episode_of("a", "b", None)
    unknown["tools"] = [tool()]
    said = {"{": "as .jsonl", "[1]": "episode 1: no id, query, tools"}
    said[json.dumps(unknown)] = (
        "no results for book_hotel; the tools that need none are amap_weather"
    )
    said[json.dumps(episode_of("a"))] = f"no connection to {URL}"
    for text, says in said.items():
        file.write_text(text, "utf-8")
        words = ["roleplay", str(file), "--to", URL, "--model", NAME, "--out", str(out)]
        assert main(words) == 1 and says in capsys.readouterr().err

    async def models(_):
        return JSONResponse({"object": "list", "data": [{"id": "smol", "object": "model"}]})

    with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
        with pytest.raises(KitError, match="no model 'other', but smol"):
            roleplay.episodes([episode_of("a")], f"{url}/v1", "other", out)
    monkeypatch.setattr(roleplay, "PYTHON", tmp_path / "python")
    with pytest.raises(KitError, match="make roleplay"):
        roleplay.episodes([], URL, "m", out)


def test_a_role_reads_back_from_its_text():
    odd = {"name": "a.b", "description": "。\n", "instruction": "x\n下面你将开始扮演y"}
    for role in (ROLE, BOT, odd):
        texts = [roleplay.role_text(role, language) for language in ("zh", "en")]
        assert [roleplay.role_of(text) for text in texts] == [role, role]
    with pytest.raises(ValueError, match="You are"):
        roleplay.role_of("You are a bot.")


# --- the app


@pytest.fixture
def checkout(tmp_path):
    """A double of a checkout, with the files that are looked at; a git repository with the tag."""
    folder, app_folder = tmp_path / "checkout", "apps/agentfabric"
    for name in ("app.py", "assets/app.css", "config/custom_bot_avatar.png"):
        (folder / app_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / app_folder / name).touch()
    (folder / "modelscope_agent").mkdir()
    (folder / "modelscope_agent" / "version.py").write_text("__version__ = '0.7.2'\n", "utf-8")
    commit = "-c user.name=x -c user.email=x@example.org commit -qm x"
    for command in ("init -q", "add .", commit, "tag v0.7.2"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder


def test_a_checkout_is_cloned_once_and_its_version_checked(checkout, tmp_path, monkeypatch):
    get = f"git clone -q --depth 1 --branch v0.7.2 file://{checkout}".split()
    monkeypatch.setattr(app, "CHECKOUT", tmp_path / "cloned")
    monkeypatch.setattr(app, "GET", [*get[:-1], str(tmp_path / "nowhere")])
    with pytest.raises(KitError, match="not here.*AGENTFABRIC_SRC=<folder>"):
        app.clone()
    assert not app.CHECKOUT.exists()
    monkeypatch.setattr(app, "GET", get)
    source = app.checked_source(app.clone())
    shutil.rmtree(checkout)
    assert app.checked_source(app.clone()) == source == app.cloned() / "apps" / "agentfabric"
    (app.CHECKOUT / "modelscope_agent/version.py").write_text('__version__ = "0.8.0"\n', "utf-8")
    for folder, problem in (
        (app.CHECKOUT, "holds modelscope-agent 0.8.0"),
        (tmp_path, "is no check"),
    ):
        with pytest.raises(KitError, match=f"{problem}.*Get it with: git clone"):
            app.checked_source(folder)


def test_the_configuration_names_our_models_and_offline_tools(tmp_path, checkout):
    folder, source = tmp_path / "run", app.checked_source(checkout)
    (folder / "config" / "local_user").mkdir(parents=True)  # what an earlier start left behind
    for language in ("en", "zh"):
        app.write_folder(folder, source, URL, ["tuned", "base"], language)
        read = {
            one.stem: json.loads(one.read_text("utf-8")) for one in folder.glob("config/*.json")
        }
        assert read["model_config"]["base"] == app.model_entry(URL, "base")
        assistant, tools = read["builder_config"], read["tool_config"]
        assert (assistant["model"], assistant["language"]) == ("tuned", language)
        offered = {one["function"]["name"] for one in WEATHER[language]}
        assert set(tools) == set(assistant["tools"]) == offered and tools["amap_weather"]["use"]
    assert not (folder / "config" / "local_user").exists()
    assert (folder / "assets" / "app.css").exists() and (source / "assets" / "app.css").exists()


def test_an_app_that_cannot_start_says_why(checkout, monkeypatch, tmp_path):
    broken = tmp_path / "python"  # a double of the environment's
    monkeypatch.setattr(app, "PYTHON", broken)
    with pytest.raises(KitError, match="make agentfabric"):
        app.launch(app.checked_source(checkout), URL, ["tuned"], port=0).__enter__()
    broken.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module gradio'\nexit 3\n", "utf-8")
    broken.chmod(0o755)
    with pytest.raises(KitError, match=r"(?s)stopped while starting.*No module gradio.*app\.log"):
        app.launch(app.checked_source(checkout), URL, ["tuned"], port=0).__enter__()


def test_the_token_is_dropped_and_nothing_else():
    chat = without_token(lambda self, *arguments, **named: (arguments, named))
    assert chat(None, 1, user_token="secret", stop=["x"]) == ((1,), {"stop": ["x"]})


@needs_app
def test_the_real_app_starts_serves_its_page_and_ends_with_the_block():
    with app.launch(app.checked_source(SOURCE), URL, ["tuned"], port=0) as page:
        text = urllib.request.urlopen(page.url, timeout=30).read().decode("utf-8")
    assert "gradio" in text and page.process.poll() is not None


def test_the_kept_agreement_follows_from_its_transcripts():
    folder = agreement.KEPT / "agreement-laptop"
    lines, rows = read_jsonl(folder / "transcripts.jsonl"), read_jsonl(folder / "cases.jsonl")
    profile = replace(profiles.get("laptop"), cases=100)
    assert rows == split.prepare_data(profile)["cases"], "they are held out"
    asked = [(name, row["id"]) for name in ("base", "tuned") for row in rows]
    assert [(line["model"], line["id"]) for line in lines] == asked
    shown = agreement.table(folder)
    assert shown["tuned"]["success, real"] == shown["tuned"]["success, ours"] == "18/80 [15%, 33%]"
    assert all(line["real"] == line["ours"] for line in lines)
    assert shown["base"]["same transcript"] == shown["tuned"]["same metrics"] == 100
