"""Odd arguments: any value passed to a public call gives a result or an error of ours, never a foreign traceback.

    for each public callable, for each of its arguments, for each kind of odd value: call it

Public callables are found by looking, so a new argument is swept from the day it is born. By default each argument meets one
value of every kind, another one for each argument; under the marker `slow` it meets all of them.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attention import jax_impl, spec, torch_impl
from attention.spec.errors import AttentionError, OptionError
from attention.spec.options import Option
from parity_tests.support.checkpoint_calls import CHECKPOINTS, UNSWEPT
from parity_tests.support.odd_values import ODD, VALUES, Odd
from parity_tests.support.public_calls import Public, Unknown, checkpoint_functions, public_calls
from parity_tests.support.sweeping import fault

CALLS = tuple(public_calls())
ARGUMENTS = sum(len(call.swept) for call in CALLS)
GIGABYTES = 4
"""What a refused call may allocate at most; more ends in a MemoryError, and not in the machine's."""


def cover(place: int) -> Iterator[Odd]:
    """Yield one value of every kind, another one for each place."""
    for kind in VALUES:
        values = [odd for odd in ODD if odd.kind == kind]
        yield values[place % len(values)]


def faults(call: Public, values: dict[str, tuple[Odd, ...]], *, briefly: bool = False) -> list[str]:
    """Return every fault of a call, with the argument and the value."""
    return [
        f"{call}({argument}={odd}): {found}"
        for argument, swept in values.items()
        for odd in swept
        if (found := fault(call, argument, odd, briefly=briefly))
    ]


@pytest.fixture(autouse=True)
def bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, and with bounded memory: values are paths too, and sizes."""
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTES * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class TestRefusals:
    @pytest.mark.parametrize("call", CALLS, ids=str)
    def test_a_valid_call_of_each_public_callable_is_known_and_succeeds(self, call: Public) -> None:
        _ = call.run(call.arguments())

    @pytest.mark.parametrize("call", [call for call in CALLS if call.swept], ids=str)
    def test_an_odd_argument_of_each_kind_is_taken_or_refused_in_our_words(self, call: Public) -> None:
        first = CALLS.index(call)
        swept = {name: tuple(cover(first + place)) for place, name in enumerate(call.swept)}
        assert faults(call, swept, briefly=True) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("call", [call for call in CALLS if call.swept], ids=str)
    def test_every_odd_argument_is_taken_or_refused_in_our_words(self, call: Public) -> None:
        assert faults(call, dict.fromkeys(call.swept, ODD)) == []


class TestLaws:
    def test_the_default_sweep_meets_every_value(self) -> None:
        met = {odd for place in range(ARGUMENTS) for odd in cover(place)}
        assert met == set(ODD)

    def test_a_missing_check_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A constructor would hold whatever it is given; a rate is computed at once.
        call = next(call for call in CALLS if call.name == "spec.optimizers.CosineRate.rate")
        assert faults(call, {"count": ODD}) == []
        monkeypatch.setattr(Option, "check", lambda *_: None)
        assert any("count='odd'" in line and "TypeError" in line for line in faults(call, {"count": ODD}))

    def test_a_new_callable_without_a_valid_call_is_named(self) -> None:
        call = next(call for call in CALLS if call.name == "spec.FeedForward")
        new = Public("spec.Newborn", "spec", None, call.parameters, call.function)
        with pytest.raises(Unknown, match=r"spec\.Newborn needs a value of embed_dim"):
            _ = new.arguments()

    def test_every_function_for_foreign_checkpoints_is_swept_or_says_why_not(self) -> None:
        found = {name for name in checkpoint_functions() if name.partition(".")[0] not in ("config", "rope")}
        # These two are in `weight_map`, and other modules hand them on.
        handed_on = {"weight_map.read", "weight_map.write", "bert.read", "bert.write"}
        assert found - handed_on == (set(CHECKPOINTS) | set(UNSWEPT)) - handed_on

    @pytest.mark.parametrize("odd", ODD, ids=str)
    def test_a_message_is_short_whatever_it_shows(self, odd: Odd) -> None:
        with pytest.raises(AttentionError) as caught:
            _ = spec.EncoderBlock(odd.make(), odd.make())
        assert 0 < len(str(caught.value)) < 500

    @pytest.mark.parametrize("backend", [torch_impl, jax_impl], ids=["torch", "jax"])
    @pytest.mark.parametrize("name", ["device", "rngs", "batch_first"])
    def test_an_argument_of_another_layer_is_refused_by_name(self, backend: Any, name: str) -> None:
        wanted = rf"FeedForward {name}=None must be one of seed=, dtype=, or an option of spec\.FeedForward"
        with pytest.raises(OptionError, match=wanted):
            _ = backend.FeedForward(spec.FeedForward(8, 4), **{name: None})

    def test_a_bound_is_named_to_who_exceeds_it(self) -> None:
        with pytest.raises(OptionError, match=r"depth 100000000 must be at most 4096"):
            _ = spec.Encoder(spec.EncoderBlock(spec.MultiHeadAttention(8, 2), spec.FeedForward(8, 4)), depth=10**8)
