"""What this machine has, and which number format its CPU computes fastest."""

import os
import shutil
import time
from functools import lru_cache

from helpers.assets import AssetError
from helpers.profiles import Profile


@lru_cache(maxsize=1)
def fastest_cpu_dtype() -> str:
    """"bfloat16" where this CPU multiplies it clearly faster than "float32", else "float32"; measured in about a
    second. CPUs with bf16 instructions gain a factor of two, those without lose a factor of four."""
    import torch

    seconds = {}
    for name in ("float32", "bfloat16"):
        left, right = (torch.ones(shape, dtype=getattr(torch, name)) for shape in ((512, 576), (576, 1536)))
        trials = []
        for _ in range(8):
            started = time.perf_counter()
            left @ right
            trials.append(time.perf_counter() - started)
        seconds[name] = min(trials)  # the fastest trial is the least disturbed one
    return "bfloat16" if seconds["bfloat16"] * 1.3 < seconds["float32"] else "float32"


def dtype_of(profile: Profile) -> str:
    """The profile's torch dtype, "fastest" resolved for this CPU."""
    return fastest_cpu_dtype() if profile.torch_dtype == "fastest" else profile.torch_dtype


def check_device(profile: Profile) -> None:
    """Raises assets.AssetError where the profile computes on a GPU and PyTorch sees none."""
    import torch

    if profile.device.startswith("cuda") and not torch.cuda.is_available():
        raise AssetError(f'the profile "{profile.name}" computes on {profile.device}, and PyTorch sees no GPU here. '
                         "Use the laptop profile (PROFILE=laptop). If nvidia-smi does show a GPU, install a PyTorch "
                         "with CUDA into .venv: https://pytorch.org/get-started")


def survey() -> dict:
    """This machine in a few words and numbers: cores, memory and free disk in GB, GPU and its memory in GB or None."""
    import psutil
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {"CPU cores": os.cpu_count(), "memory (GB)": round(psutil.virtual_memory().total / 1e9, 1),
            "free disk (GB)": round(shutil.disk_usage(".").free / 1e9, 1), "GPU": gpu.name if gpu else None,
            "GPU memory (GB)": round(gpu.total_memory / 1e9, 1) if gpu else None,
            "fastest CPU dtype": fastest_cpu_dtype()}
