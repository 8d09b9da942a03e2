"""The servers' command lines, with the traps of each; `helpers.serving.server` starts them.

swift: `swift deploy` with its transformers backend; runs wherever training runs.
swift-vllm: `swift deploy` with vLLM as its backend, from .venv-vllm (`make vllm`).
vllm: vLLM's own server, from the same environment.
"""

import importlib.util
import json
import sys
from pathlib import Path

from helpers import assets, train
from helpers.assets import KitError, processes
from helpers.profiles import Profile, dtype_of

ENGINES = ("swift", "swift-vllm", "vllm")
CONTEXT = 2048  # tokens; on a CPU, vLLM would otherwise reserve memory for the longest possible one
VLLM_ENVIRONMENT = {
    "VLLM_PLUGINS": "none",  # of other packages
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB for the keys and values of all requests
}


def command_of(
    engine: str, profile: Profile, model: Path, name: str, adapters: list[str], port: int
) -> tuple[list, dict]:
    """The command that serves the folder `model` as `name`, and `adapters` ("name=folder") beside
    it; and its environment. Both servers are started as modules: the `swift` command starts the
    server as another process, which would outlive it; the `vllm` command does not run without a
    package of that name, and the build for CPUs has another. Raises KitError: no vLLM here.
    """
    cpu, rank = profile.device == "cpu", max(16, profile.recipe["lora_rank"])  # vLLM's default: 16
    place = ["--host", "127.0.0.1", "--port", port, "--model", model]
    # AgentFabric sends neither a temperature nor a limit: both servers are told theirs
    if engine == "vllm":
        defaults = {"temperature": 0, "max_new_tokens": profile.max_new_tokens}
        command = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", *place]
        command += ["--served-model-name", name, "--dtype", dtype_of(profile)]
        command += ["--override-generation-config", json.dumps(defaults)]
        if cpu:  # compiling takes two minutes and gains a third of the speed
            command += ["--enforce-eager", "--max-model-len", CONTEXT]
        if adapters:
            command += ["--enable-lora", "--max-lora-rank", rank, "--lora-modules", *adapters]
        return command, {**processes.child_environment(), **VLLM_ENVIRONMENT}

    command = ["-m", "swift.cli.deploy", *place, "--served_model_name", name]
    command += ["--temperature", 0, "--max_new_tokens", profile.max_new_tokens]
    # a local folder does not tell ms-swift which of its model types it is
    command += ["--model_type", profile.model_type, "--template", profile.template]
    command += [
        "--load_args",
        "false",
    ]  # else a checkpoint's args.json decides on the prompt's form
    command += ["--external_plugins", train.PLUGIN, "--torch_dtype", dtype_of(profile)]
    command += ["--verbose", "false", "--log_interval", -1]  # no requests in the log
    command += ["--adapters", *adapters] if adapters else []
    if engine == "swift":
        command += ["--infer_backend", "transformers", "--device_map", profile.device]
        if not adapters:
            # The default, 1, answers one request at a time. With adapters, a batch of several
            # fails: "Length of `adapter_names` should be the same".
            command += ["--max_batch_size", profile.batch_size]
        return [sys.executable, *command], processes.child_environment()

    command += ["--infer_backend", "vllm"]
    if cpu:
        command += ["--vllm_enforce_eager", "true", "--vllm_max_model_len", CONTEXT]
    if adapters:
        command += ["--vllm_enable_lora", "true", "--vllm_max_lora_rank", rank]
    return [vllm_python(), *command], {**processes.child_environment(), **VLLM_ENVIRONMENT}


def vllm_python() -> str:
    """The Python that has vLLM. Raises KitError where none has; it says what to run."""
    own = assets.ROOT / ".venv-vllm"
    if (own / "ready").exists():
        return str(own / "bin" / "python")
    if importlib.util.find_spec("vllm"):
        return sys.executable
    raise KitError("vLLM is not installed here: `make vllm` makes .venv-vllm (minutes, 2.6 GB).")
