"""The example that opens each command's help. A test runs them in order, in a checkout of the repository."""

PORT = "examples/port/model_torch.py:Block examples/port/model_jax.py:Block"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": ("attention compare torch.nn.functional:gelu jax.nn:gelu --inputs 2,7",),
    "verify": ("attention verify --contract rotary --contract causal_end --dtype float32",),
    "compare": (
        "attention compare torch.nn.functional:gelu jax.nn:gelu --inputs 2,7",
        f"attention compare {PORT} --inputs 2,7,24 --values first",
    ),
    "layers": (
        "attention layers examples/port/same_values.py:make_torch examples/port/same_values.py:make_jax --inputs 2,7,24",
    ),
    "decoding": ("attention decoding examples/port/decoder.py:make_decoder --tokens 2,8:int64 --split 4",),
    "logits": ("attention logits examples/port/decoder.py:logits examples/port/decoder.py:logits --inputs 2,8:int64",),
    "record": ("attention record model examples/port/model_torch.py:Block build/block.safetensors --inputs 2,7,24",),
    "record model": ("attention record model examples/port/model_torch.py:Block build/block.safetensors --inputs 2,7,24",),
    "record program": ("attention record program torch.nn.functional:gelu build/gelu.safetensors --inputs 2,7",),
    "record contracts": ("attention record contracts build/torch.safetensors --backend torch --contract rotary",),
    "replay": (
        "attention replay build/gelu.safetensors jax.nn:gelu",
        "attention replay build/torch.safetensors --backend jax",
    ),
    "cases": ("attention cases export build/cases --contract self",),
    "cases list": ("attention cases list",),
    "cases export": ("attention cases export build/cases --contract self",),
    "cases check": ("attention cases check build/cases --with examples/port/cases_numpy.py:run",),
    "kernels": ('attention kernels explain --size 4096 --heads 8 --width 64 --mask "causal & window:256"',),
    "kernels explain": ('attention kernels explain --size 4096 --heads 8 --width 64 --mask "causal & window:256"',),
    "kernels measure": ("attention kernels measure build/rules.json --backend torch --mask causal --size 64,128",),
    "kernels tune": ("attention kernels tune --backend jax --mask causal",),
    "bench": ("attention bench run causal --size 512 --program forward",),
    "bench run": ("attention bench run causal --size 512 --program forward",),
    "bench requirements": ("attention bench requirements --only 3.window",),
    "bench compare": ("attention bench compare before.json after.json",),
    "bench plot": ("attention bench plot build/bench.json build/bench",),
    "bench suites": ("attention bench suites",),
}
"""By the command's name; "" is the program itself."""
