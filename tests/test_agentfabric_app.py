"""The AgentFabric app: what is written for it, what is said when it cannot start; and the real one, if it is here."""

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from helpers import agentfabric_app as af
from helpers import agentfabric_source as origin
from helpers import supervisor
from helpers.agentfabric_runtime import without_token

SOURCE = os.environ.get("AGENTFABRIC_SRC")
needs_app = pytest.mark.skipif(not (SOURCE and af.PYTHON.exists()), reason="needs AGENTFABRIC_SRC and make agentfabric")


@pytest.fixture
def checkout(tmp_path):
    """A double of a checkout: only the files that are looked at."""
    folder = tmp_path / "checkout"
    for name, text in {"apps/agentfabric/app.py": "", "apps/agentfabric/assets/app.css": "",
                       "apps/agentfabric/config/custom_bot_avatar.png": "",
                       "modelscope_agent/version.py": "__version__ = '0.7.2'\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def read(folder, name):
    return json.loads((folder / "config" / f"{name}.json").read_text("utf-8"))


def test_the_checkout_is_found_and_its_version_checked(checkout):
    assert origin.checked_source(checkout) == checkout / "apps" / "agentfabric"
    (checkout / "modelscope_agent/version.py").write_text('__version__ = "0.8.0"\n', "utf-8")
    with pytest.raises(origin.AppError, match=r"holds modelscope-agent 0\.8\.0.*git checkout v0\.7\.2"):
        origin.checked_source(checkout)
    (checkout / "modelscope_agent/version.py").unlink()
    with pytest.raises(origin.AppError, match="holds modelscope-agent unknown"):
        origin.checked_source(checkout)


def test_a_folder_that_is_no_checkout_is_named(tmp_path, capsys):
    assert af.main(["--src", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path) in said and "git clone --depth 1 --branch v0.7.2" in said and "Traceback" not in said


def test_a_clone_that_fails_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "ROOT", tmp_path)
    monkeypatch.setattr(origin, "REPOSITORY", str(tmp_path / "nowhere"))
    monkeypatch.setattr(origin, "GET", f"git clone --depth 1 --branch v0.7.2 {tmp_path / 'nowhere'}")
    with pytest.raises(origin.AppError, match="not here"):
        origin.cloned()
    with pytest.raises(origin.AppError, match="AGENTFABRIC_SRC=<folder>"):
        origin.clone()
    assert not (tmp_path / ".cache" / "modelscope-agent-0.7.2").exists()


def test_a_clone_is_of_the_tag_and_made_once(tmp_path, monkeypatch, checkout):
    for command in ("init -q", "add .", "-c user.name=x -c user.email=x@example.org commit -qm x", "tag v0.7.2"):
        subprocess.run(["git", *command.split()], cwd=checkout, check=True)
    monkeypatch.setattr(origin, "ROOT", tmp_path)
    monkeypatch.setattr(origin, "REPOSITORY", f"file://{checkout}")
    monkeypatch.setattr(origin, "GET", f"git clone --depth 1 --branch v0.7.2 file://{checkout}")
    assert origin.checked_source(origin.clone()).exists()
    shutil.rmtree(checkout)
    assert origin.checked_source(origin.clone()).exists()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_configuration_names_our_models_and_offline_tools(tmp_path, checkout, language):
    folder, source = tmp_path / "run", origin.checked_source(checkout)
    (folder / "config" / "local_user").mkdir(parents=True)  # what an earlier start left behind
    af.write_folder(folder, source, "http://127.0.0.1:8000/v1", ["tuned", "base"], language)
    assert read(folder, "model_config")["base"] == {"type": "openai", "model": "base", "is_chat": True,
                                                    "api_base": "http://127.0.0.1:8000/v1", "is_function_call": False}
    assistant, tools = read(folder, "builder_config"), read(folder, "tool_config")
    offered = {tool["function"]["name"] for tool in
               json.loads((af.ROOT / "data/roleplay/tools.json").read_text("utf-8"))[language]}
    assert (assistant["model"], assistant["language"]) == ("tuned", language)
    assert set(tools) == set(assistant["tools"]) == offered and tools["amap_weather"]["use"]
    assert not (folder / "config" / "local_user").exists() and (folder / "assets" / "app.css").exists()
    assert (source / "assets" / "app.css").exists()  # the link was made anew, what it points to was not touched
    af.write_folder(folder, source, "http://127.0.0.1:8000/v1", ["tuned"], language)
    assert (source / "assets" / "app.css").exists()


def test_a_port_in_use_and_a_missing_environment_are_said(checkout, monkeypatch):
    source = origin.checked_source(checkout)
    monkeypatch.setattr(af, "PYTHON", Path(os.devnull))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(origin.AppError, match="in use.*--port"):
        with af.launch(source, "http://127.0.0.1:1/v1", ["tuned"], port=taken.getsockname()[1]):
            pass
    monkeypatch.setattr(af, "PYTHON", checkout / "none")
    with pytest.raises(origin.AppError, match="make agentfabric"), af.launch(source, "http://127.0.0.1:1/v1", ["tuned"]):
        pass


def test_an_app_that_dies_while_starting_is_told_with_its_log(checkout, monkeypatch, tmp_path):
    broken = tmp_path / "python"  # a double of the environment's Python
    broken.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named gradio'\nexit 3\n", "utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(af, "PYTHON", broken)
    with pytest.raises(origin.AppError, match=r"No module named gradio[\s\S]*app\.log"):
        with af.launch(origin.checked_source(checkout), "http://127.0.0.1:1/v1", ["tuned"], port=0):
            pass


def test_the_token_is_dropped_and_nothing_else():
    chat = without_token(lambda self, *arguments, **named: (arguments, named))
    assert chat(None, 1, user_token="secret", stop=["x"]) == ((1,), {"stop": ["x"]})


@needs_app
def test_the_real_app_starts_serves_its_page_and_leaves_nothing_running():
    with af.launch(origin.checked_source(SOURCE), "http://127.0.0.1:1/v1", ["tuned"], port=0) as app:
        page = urllib.request.urlopen(app.url, timeout=30).read().decode("utf-8")
        family = supervisor.session(app.process.pid)
    assert "gradio" in page and family and not supervisor.session(app.process.pid)
