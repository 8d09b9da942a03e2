"""One way to ask a model: the base, or the base with a checkpoint's adapter, through ms-swift's own engine.

Requests are AgentFabric messages from `helpers.agentfabric`; ms-swift's chat template turns them into tokens, the same
template that made the training tokens.
"""

import logging
import os
from functools import lru_cache
from pathlib import Path

from tqdm.auto import tqdm

from helpers import assets, hardware
from helpers.agentfabric import STOP_WORDS
from helpers.profiles import Profile
from helpers.tokens import template_of


class Reply(str):
    """A reply's text; `finished` is False where it was cut at the token limit instead of ending by itself."""

    finished: bool = True


class Model:
    """A profile's model, loaded on first use; adapters are merged on loading, so that they cost no speed."""

    def __init__(self, profile: Profile):
        self.profile = profile
        # base and tuned side by side fit easily on a CPU machine; a GPU's memory may hold only one
        self._engine = lru_cache(maxsize=2 if profile.device == "cpu" else 1)(self._load)

    def ask(self, requests: list[list[dict]], adapter: str | Path | None = None, progress: str = "",
            max_new_tokens: int | None = None) -> list[Reply]:
        """Greedy replies to AgentFabric requests, in their order.

        Args:
            requests: lists of `{"role", "content"}` messages, each ending in a user message.
            adapter: a checkpoint folder; None asks the base model.
            progress: label of a progress bar; none without it.
            max_new_tokens: limit per reply; the profile's without it.

        Raises:
            assets.AssetError: the model or its GPU cannot be had, or the adapter folder holds none.
        """
        from swift import InferRequest, RequestConfig

        engine = self._engine(str(adapter) if adapter else None)
        config = RequestConfig(max_tokens=max_new_tokens or self.profile.max_new_tokens, temperature=0,
                               stop=[STOP_WORDS[0]])
        # neighbours of like length are padded least, longest first: a bar that slows down would be worse
        order = sorted(range(len(requests)), key=lambda i: -sum(len(message["content"]) for message in requests[i]))
        replies = [Reply()] * len(requests)
        size = self.profile.batch_size
        with tqdm(total=len(order), desc=progress, unit="reply", disable=not progress) as bar:
            for batch in (order[start:start + size] for start in range(0, len(order), size)):
                answers = engine.infer([InferRequest(messages=requests[i]) for i in batch], config, use_tqdm=False)
                for i, answer in zip(batch, answers, strict=True):
                    replies[i] = Reply(answer.choices[0].message.content)
                    replies[i].finished = answer.choices[0].finish_reason != "length"
                bar.update(len(batch))
        return replies

    def grade(self, rows: list[dict], adapter: str | Path | None = None) -> list[dict]:
        """How well the model expects training rows of ms-swift (teacher-forced: every token is guessed from the right
        ones before it).

        Args:
            rows: in wire shape, or plain chat; the labels are those of wire shape.
            adapter: as for `ask`.

        Returns one {"tokens": how many are labels, "right": how many of them the model would have written, "nats":
        their summed negative log likelihood} per row.
        """
        import torch

        engine, template = self._engine(str(adapter) if adapter else None), template_of(self.profile, "wire")
        grades = []
        for row in rows:
            encoded = template.encode({key: row[key] for key in ("messages", "tools")})
            labels = torch.tensor(encoded["labels"])[1:]
            with torch.inference_mode():
                logits = engine.model(torch.tensor([encoded["input_ids"]], device=engine.model.device)).logits[0, :-1]
            graded = labels != -100
            logits, labels = logits.float().cpu()[graded], labels[graded]
            nats = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            grades.append({"tokens": len(labels), "right": int((logits.argmax(-1) == labels).sum()), "nats": nats})
        return grades

    def _load(self, adapter: str | None):
        if adapter and not (Path(adapter) / "adapter_config.json").exists():
            raise assets.AssetError(f"no adapter in {adapter}: expected a checkpoint folder with adapter_config.json")
        hardware.check_device(self.profile)
        folder = assets.model_dir(self.profile.model)
        import torch
        import transformers
        from peft import PeftModel
        from swift import TransformersEngine, get_model_processor, get_template
        from swift.utils import get_logger

        get_logger().setLevel(logging.ERROR)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        if self.profile.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # more threads gain nothing on a small model, and lose a lot where another program wants a core
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        model, processor = get_model_processor(str(folder), torch_dtype=getattr(torch, hardware.dtype_of(self.profile)),
                                               model_type=self.profile.model_type, device_map=self.profile.device)
        if adapter:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        template = get_template(processor, template_type=self.profile.template)
        return TransformersEngine(model.eval(), template=template, max_batch_size=self.profile.batch_size)
