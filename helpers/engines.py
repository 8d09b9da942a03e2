"""The command lines of the servers, with the traps of each; `helpers.serving` starts them.

    swift        `swift deploy` with its transformers backend; runs wherever training runs
    vllm         vLLM's own server, from the environment .venv-vllm (`make vllm`) or where vLLM is installed
    swift-vllm   `swift deploy` with vLLM as its backend, from the same environment
"""

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers import assets, finetune, hardware
from helpers.profiles import Profile

CONTEXT = 2048  # tokens; on a CPU, vLLM would otherwise reserve memory for the longest context the model can take
# no plugins of other packages, no usage reports, 1 GB for the keys and values of all requests on a CPU
VLLM_ENVIRONMENT = {"VLLM_PLUGINS": "none", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


class ServingError(RuntimeError):
    """A server cannot be started, or has died; the message names the cause and the log."""


@dataclass(frozen=True)
class Service:
    """What to serve: a base model's folder under a `name`, and adapters (served name → checkpoint folder) beside it."""

    profile: Profile
    model: Path
    name: str
    adapters: dict[str, Path]
    port: int
    agent_template: str


def swift(service: Service) -> tuple[list, dict]:
    """`swift deploy` on transformers: its command and environment."""
    backend = ["--infer_backend", "transformers", "--device_map", service.profile.device]
    if not service.adapters:  # with adapters, a batch of several fails: "Length of `adapter_names` should be the same"
        backend += ["--max_batch_size", service.profile.batch_size]  # its default, 1, answers one request at a time
    return [sys.executable, *_swift_deploy(service), *backend], finetune.child_environment()


def swift_vllm(service: Service) -> tuple[list, dict]:
    """`swift deploy` on vLLM: its command and environment.

    Raises:
        ServingError: vLLM is not installed.
    """
    backend = ["--infer_backend", "vllm"]
    if service.profile.device == "cpu":
        backend += ["--vllm_enforce_eager", "true", "--vllm_max_model_len", CONTEXT]
    if service.adapters:
        backend += ["--vllm_enable_lora", "true", "--vllm_max_lora_rank", _lora_rank(service.profile)]
    return [vllm_python(), *_swift_deploy(service), *backend], {**finetune.child_environment(), **VLLM_ENVIRONMENT}


def _swift_deploy(service: Service) -> list:
    """What both backends share. Started as a module: the `swift` command puts a process of its own before the server's,
    and ending that one leaves the server running."""
    profile, adapters = service.profile, _pairs(service.adapters)
    return ["-m", "swift.cli.deploy", "--host", "127.0.0.1", "--port", service.port,
            "--model", service.model, "--served_model_name", service.name,
            *(["--adapters", *adapters] if adapters else []),
            # a local folder does not tell ms-swift which of its model types it is
            "--model_type", profile.model_type, "--template", profile.template,
            "--load_args", "false",  # else a checkpoint's args.json decides on the prompt's form, unseen
            "--external_plugins", finetune.PLUGIN, "--agent_template", service.agent_template,
            "--torch_dtype", hardware.dtype_of(profile),
            # AgentFabric sends neither of these two
            "--temperature", 0, "--max_new_tokens", profile.max_new_tokens,
            "--verbose", "false", "--log_interval", -1]  # no requests in the log


def vllm(service: Service) -> tuple[list, dict]:
    """vLLM's server: its command and environment. Started as a module: the `vllm` command asks for the metadata of a
    package named vllm, which the CPU build does not have.

    Raises:
        ServingError: vLLM is not installed.
    """
    profile, adapters = service.profile, _pairs(service.adapters)
    # compiling for a CPU takes two minutes and gains a third of the speed
    cpu = ["--enforce-eager", "--max-model-len", CONTEXT] if profile.device == "cpu" else []
    lora = ["--enable-lora", "--max-lora-rank", _lora_rank(profile), "--lora-modules", *adapters] if adapters else []
    defaults = json.dumps({"temperature": 0, "max_new_tokens": profile.max_new_tokens})  # AgentFabric sends neither
    command = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", service.port,
               "--model", service.model, "--served-model-name", service.name, "--dtype", hardware.dtype_of(profile),
               "--override-generation-config", defaults, *cpu, *lora]
    return command, {**finetune.child_environment(), **VLLM_ENVIRONMENT}


def vllm_python() -> str:
    """The Python that has vLLM.

    Raises:
        ServingError: there is none; it says what to run.
    """
    own = assets.repo_root() / ".venv-vllm"
    if (own / "ready").exists():
        return str(own / "bin" / "python")
    if importlib.util.find_spec("vllm"):
        return sys.executable
    raise ServingError("vLLM is not installed here: `make vllm` makes its environment .venv-vllm (minutes, 2.6 GB).")


def _pairs(adapters: dict[str, Path]) -> list[str]:
    return [f"{name}={folder}" for name, folder in adapters.items()]


def _lora_rank(profile: Profile) -> int:
    return max(16, profile.recipe["lora_rank"])  # 16 is vLLM's own default


ENGINES = {"swift": swift, "swift-vllm": swift_vllm, "vllm": vllm}
