"""A model's weights and tokenizer as one GGUF file, for llama.cpp and what is built on it.

Key names and tensor names are those of the `gguf` package (llama.cpp's own); Qwen 2 and 3 are written here, whose
tensors need no reordering. Norms and biases stay fp32, as llama.cpp expects; matrices are f32, f16 or q8_0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm.vault.catalog import VaultError

ARCHITECTURES = {"qwen2": "QWEN2", "qwen3": "QWEN3"}
SPLIT_OF = "qwen2"  # name of llama.cpp's way to cut text into words, for byte-level BPE of this family


def write(target: Path, weights: Mapping[str, Any], config: Any, tokenizer: Any, name: str, quantize: str) -> None:
    """Write one file.

    Args:
        weights: {Hugging Face name: float32 array}.
        config: the model's transformers configuration.
        tokenizer: a fast byte-level BPE tokenizer.

    Raises:
        VaultError: a family that is not written here.
    """
    import gguf

    family = config.model_type
    if family not in ARCHITECTURES:
        raise VaultError(f"GGUF of model type {family!r} is not written, only of {', '.join(ARCHITECTURES)}; export "
                         "a folder (--format hf) and use llama.cpp's convert_hf_to_gguf.py")  # fmt: skip
    architecture = getattr(gguf.MODEL_ARCH, ARCHITECTURES[family])
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    _facts(writer, config, name, quantize)
    _words(writer, gguf, tokenizer, config)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    kind = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16,
            "q8_0": gguf.GGMLQuantizationType.Q8_0}[quantize]  # fmt: skip
    for key, array in weights.items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        new = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise VaultError(f"weight {key} has no name in GGUF; export a folder (--format hf) instead")
        block = gguf.GGML_QUANT_SIZES[kind][0]
        as_it_is = array.ndim < 2 or array.shape[-1] % block
        chosen = gguf.GGMLQuantizationType.F32 if as_it_is else kind
        writer.add_tensor(new, gguf.quants.quantize(array, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _facts(writer: Any, config: Any, name: str, quantize: str) -> None:
    import gguf

    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    writer.add_name(name)
    writer.add_file_type({"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
                          "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[quantize])  # fmt: skip
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_vocab_size(config.vocab_size)


def _words(writer: Any, gguf: Any, tokenizer: Any, config: Any) -> None:
    """Vocabulary, merges, control tokens and chat template."""
    inside = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    by_id = {number: word for word, number in tokenizer.get_vocab().items()}
    control = set(tokenizer.all_special_ids)
    added = set(tokenizer.added_tokens_decoder)
    words, kinds = [], []
    for number in range(config.vocab_size):
        words.append(by_id.get(number, f"[PAD{number}]"))
        kinds.append(gguf.TokenType.UNUSED if number not in by_id else gguf.TokenType.CONTROL if number in control
                     else gguf.TokenType.USER_DEFINED if number in added else gguf.TokenType.NORMAL)  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(SPLIT_OF)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in inside["merges"]])
    writer.add_add_bos_token(False)
    for number, add in ((tokenizer.eos_token_id, writer.add_eos_token_id),
                        (tokenizer.pad_token_id, writer.add_pad_token_id),
                        (tokenizer.bos_token_id, writer.add_bos_token_id)):  # fmt: skip
        if number is not None:
            add(number)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
