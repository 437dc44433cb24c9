"""The model of the tutorial "Check your port": a small Llama of transformers with random weights.

attention compare examples/port/llama_torch.py:make_llama examples/port/llama_first_try.py:make_port \
    --inputs examples.port.llama_torch:make_inputs
"""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
)


def make_llama() -> LlamaForCausalLM:
    """Return the model in evaluation mode, the same weights every time."""
    _ = torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


def make_inputs() -> dict[str, np.ndarray]:
    """Return two sequences of random tokens."""
    return {"input_ids": np.random.default_rng(0).integers(0, CONFIG.vocab_size, size=(2, 7))}
