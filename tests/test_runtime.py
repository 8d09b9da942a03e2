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

from helpers import agent, evaluate, profiles, split
from helpers.agentfabric import STOP_WORDS
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
needs_app = pytest.mark.skipif(not (SOURCE and app.PYTHON.exists()), reason="needs AgentFabric")
WEATHER, URL = data("tools"), "http://127.0.0.1:9/v1"
ROLE = {"name": "天气助手", "description": "。\n", "instruction": "先查。\n\n下面你将开始扮演画家"}
BOT = {"name": "Weather.Bot", "description": "", "instruction": "Look it up.\n\nThen draw."}


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
LONG = (*SNOW[:2], "snow " * 1000)
NESTED = {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}}
ODD = tool("odd-tool.v1", 'Nested {braces}, "quotes"\n\nand paragraphs.', (), deep=NESTED)
CALLED = ("odd-tool.v1", {"deep": {"x": [1.5]}}, "{'y': '一'}")
ZH = turn("朝阳区天气怎样？画一张", f"晴，25度。\n{DRAWN[2]}", SUN, DRAWN)
EN, THANKS = turn("Weather in Oslo?", "Snow, -2 degrees.", SNOW), turn("谢谢", "不客气。")
ZH_ROLE = {"instruction": roleplay.role_text(ROLE, "zh"), "role": ROLE["name"]}
EN_ROLE = {"instruction": roleplay.role_text(BOT, "en"), "role": BOT["name"]}
ROWS = [
    row("zh-role", WEATHER["zh"], ZH + THANKS, **ZH_ROLE, knowledge="Empty Response"),
    row("zh-one", WEATHER["zh"][:1], turn("你好", "您好！"), instruction="你是天气助手。"),
    row("en-role", WEATHER["en"], EN + turn("Ta!", "Oh."), **EN_ROLE, knowledge="Far.\n\nCold."),
    row("en-one", WEATHER["en"][:1], EN),
    row("en-then-zh", WEATHER["en"][:1], EN + THANKS, instruction="Be brief."),
    row("odd", [ODD, WEATHER["zh"][0]], turn("Hi", "一", CALLED), instruction="x"),
    row("long", WEATHER["en"][:1], turn("?", "Snow.", LONG), knowledge="Far. " * 999 + "远"),
]
GOLD = (({"name": "amap_weather", "arguments": {"location": "朝阳区"}}, "晴，25度"),)
CASE = evaluate.Case("", WEATHER["zh"], "朝阳区天气怎样？", GOLD, (), "")
CALL = 'Action: amap_weather\nAction Input: {"location": "朝阳区"}'
PAINT = 'Action: image_gen\nAction Input: {"text": "晴", "resolution": "720*1280"}'
# What a model says, request after request; the last is said again for ever. After the calls that
# the runtime cannot read or run comes its error, then "?"; the last three it takes for answers.
INPUTS = ['{"location": "朝', "{}", "朝阳区", "{'location': '朝阳区',}", '{\n"location": "朝阳区"}']
SAID = [[f"Action: amap_weather\nAction Input: {one}", "?"] for one in INPUTS]
SAID += [[f"Action: {one}\nAction Input: {{}}", "?"] for one in ("no_such", "amap_weather ")]
SAID += [[CALL], [f"{CALL}\n{CALL}", "?"], [f"工具调用\n{CALL}\n\n", "?"], [PAINT, CALL, "?"]]
SAID += [["Action: amap_weather"], ["Action：amap_weather\nAction Input：{}"], [""]]
LIVE = [CALL, PAINT, "好了"]  # with the local tools


def episode_of(id, query=CASE.query, results=(list(SUN[::2]),)):
    return {"id": id, "query": query, "tools": CASE.tools, "instruction": "x", "results": results}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The real RolePlay's transcripts by id; ours; what was recorded; the episodes; the file."""
    ours, script = {}, script_of(ROWS)
    episodes = [episode for one in ROWS for episode in roleplay.episodes_of(one)]
    for number, said in enumerate([*SAID, LIVE]):
        execute, episode = evaluate.case_tools(CASE), episode_of(f"{number}", f"{number}朝阳区?")
        if said is LIVE:
            episode["results"] = None
            execute = lambda call: LOCAL[call.name](json.loads(call.arguments))  # noqa: E731
        say = iter([*said, *[said[-1]] * 10])
        ask = lambda messages, say=say: script.setdefault(json.dumps(messages), next(say))  # noqa: E731
        steps = agent.run(CASE.tools, episode["query"], ask, execute, instruction="x")
        ours[episode["id"]] = [replace(step, messages=()) for step in steps]
        episodes.append(episode)
    out = tmp_path_factory.mktemp("roleplay") / "made.jsonl"
    heard = out.with_name("heard.jsonl")
    with scripted_teacher(script) as teacher, recording(teacher, heard) as url:
        transcripts = roleplay.episodes(episodes, url, NAME, out, quiet=True)
    return {one.id: one for one in transcripts}, ours, read_jsonl(heard), episodes, out


@needs_roleplay
def test_every_request_is_byte_for_byte_ours(made):
    """Both languages, roles, knowledge, history, odd tools; and the recording becomes the rows."""
    transcripts, heard = made[0], made[2]
    assert sum(one.requests for one in transcripts.values() if not one.error) == len(heard)
    assert heard[0]["request"]["stop"] == list(STOP_WORDS)
    assert not {"temperature", "max_tokens"} & set(heard[0]["request"])
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
    transcripts, _, _, episodes, out, asked = *made, []

    async def chat(request):
        asked.append((await request.json())["messages"][-1]["content"].rpartition(")")[2])

        def events(name=asked[-1]):
            time.sleep(12 if name == "slow" else 0)
            yield b"data: {nonsense\n\n" if name == "nonsense" else b""
            for delta, reason in ({"content": "half"}, None), ({}, "length"):
                choice = {"index": 0, "delta": delta, "finish_reason": reason}
                if name != "broken" or not reason:
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n".encode()

        return StreamingResponse(events(), 500 if asked[-1] == "error" else 200)

    names = ["slow", "nonsense", "broken", "limit", "error"]
    todo = [*episodes, *(episode_of(name, name) for name in names)]
    out.write_text(out.read_text("utf-8") + '{"id": "cut off by an interru', "utf-8")
    with serving(Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])) as url:
        found = roleplay.episodes(todo, f"{url}/v1", NAME, out, timeout=5, parallel=3, quiet=True)
    assert found[: len(episodes)] == list(transcripts.values()) and set(asked) == set(names)
    slow, nonsense, broken, limit, error = found[len(episodes) :]
    assert "within 5 s" in slow.error and "broke off" in broken.error
    assert nonsense.error and "InternalServerError" in error.error
    assert {one.steps[-1].kind for one in (slow, nonsense, broken, error)} == {"gave_up"}
    assert limit.steps == [agent.Step("answer", "half", raw="half", finished=False)]


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
            reply, result = added[: -len("</result>\nAnswer:")].split("\nObservation: <result>")
            assert loop.send(reply).kind == "call"
            step = loop.send(result)
        assert list(step.messages) == sent[-1], first.name


@needs_roleplay
def test_what_cannot_be_run_says_why(tmp_path, capsys, monkeypatch):
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    unknown = {**episode_of("a", "b", None), "tools": [tool()]}
    said = {"{": "as .jsonl", "[1]": "episode 1: no id, query, tools"}
    said[json.dumps(unknown)] = "no results for book_hotel; the tools that need none are amap_w"
    said[json.dumps(episode_of("a"))] = f"no connection to {URL}"
    for text, says in said.items():
        file.write_text(text, "utf-8")
        assert main(f"roleplay {file} --to {URL} --model {NAME} --out {out}".split()) == 1
        assert says in capsys.readouterr().err

    async def models(_):
        return JSONResponse({"object": "list", "data": [{"id": "smol", "object": "model"}]})

    with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
        with pytest.raises(KitError, match="no model 'other', but smol"):
            roleplay.episodes([episode_of("a")], f"{url}/v1", "other", out)
    monkeypatch.setattr(roleplay, "PYTHON", tmp_path / "python")
    with pytest.raises(KitError, match="make roleplay"):
        roleplay.episodes([], URL, "m", out)


def test_a_role_reads_back_from_its_text():
    for role in (ROLE, BOT):
        texts = [roleplay.role_text(role, language) for language in ("zh", "en")]
        assert [roleplay.role_of(text) for text in texts] == [role, role]
    with pytest.raises(ValueError, match="You are"):
        roleplay.role_of("You are a bot.")


@pytest.fixture
def checkout(tmp_path):
    """A double of a checkout, with the files that are looked at; a git repository with the tag."""
    folder = tmp_path / "checkout"
    for name in ("app.py", "assets/app.css", "config/custom_bot_avatar.png"):
        (folder / "apps/agentfabric" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "apps/agentfabric" / name).touch()
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
    monkeypatch.setattr(app, "GET", get)
    source = app.checked_source(app.clone())
    shutil.rmtree(checkout)
    assert app.checked_source(app.clone()) == source == app.cloned() / "apps" / "agentfabric"
    (app.CHECKOUT / "modelscope_agent/version.py").write_text('__version__ = "0.8.0"\n', "utf-8")
    for folder, said in {app.CHECKOUT: "holds modelscope-agent 0.8.0", tmp_path: "is no "}.items():
        with pytest.raises(KitError, match=f"{said}.*Get it with: git clone"):
            app.checked_source(folder)


def test_the_configuration_names_our_models_and_offline_tools(tmp_path, checkout):
    folder, source = tmp_path / "run", app.checked_source(checkout)
    (folder / "config" / "local_user").mkdir(parents=True)  # what an earlier start left behind
    for language in ("en", "zh"):
        app.write_folder(folder, source, URL, ["tuned", "base"], language)
        files = sorted(folder.glob("config/*.json"))
        assistant, models, tools = (json.loads(one.read_text("utf-8")) for one in files)
        entry = {"model": "base", "api_base": URL, "is_chat": True, "is_function_call": False}
        assert models["base"] == {"type": "openai", **entry}
        assert (assistant["model"], assistant["language"]) == ("tuned", language)
        offered = {one["function"]["name"] for one in WEATHER[language]}
        assert set(tools) == set(assistant["tools"]) == offered and tools["amap_weather"]["use"]
    assert not (folder / "config" / "local_user").exists()
    assert (folder / "assets" / "app.css").exists() and (source / "assets" / "app.css").exists()


def test_an_app_that_cannot_start_says_why(checkout, monkeypatch, tmp_path):
    broken = tmp_path / "python"  # a double of the environment's
    monkeypatch.setattr(app, "PYTHON", broken)
    launched = lambda: app.launch(app.checked_source(checkout), URL, ["x"], port=0)  # noqa: E731
    with pytest.raises(KitError, match="make agentfabric"):
        launched().__enter__()
    broken.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module gradio'\nexit 3\n", "utf-8")
    broken.chmod(0o755)
    with pytest.raises(KitError, match=r"(?s)stopped while starting.*No module gradio.*app\.log"):
        launched().__enter__()


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
    asked = {"source": "authored", "pack": 0, "dev": 0, "max_tools": 2, "max_chars": 1200}
    assert rows == split.prepare_data(profiles.get("laptop", cases=100, **asked))["cases"]
    asked = [(name, row["id"]) for name in ("base", "tuned") for row in rows]
    assert [(line["model"], line["id"]) for line in lines] == asked
    shown = agreement.table(folder)
    assert shown["tuned"]["success, real"] == shown["tuned"]["success, ours"] == "9/80 [6%, 20%]"
    assert list(shown.loc["same transcript"]) == list(shown.loc["same metrics"]) == [100, 100]
