"""Benchmarks: only implementations with correct results are timed, in interleaved rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from attention import torch_impl
from attention.spec.kernels import Request
from attention.torch_impl.kernels.reference import Reference
from benchmarks import correctness, modules
from benchmarks.adapters import Attention, Implementation
from benchmarks.cases import BACKWARD, FORWARD, MASKS, PROGRAMS, Case, drawn, offsets
from benchmarks.implementations import PEERS, find, missing
from benchmarks.measure import alone, enter, measure
from benchmarks.programs import TooLarge, build
from benchmarks.results import DIFFERS, REFUSED, TIMED, WRONG, Results
from benchmarks.suites import SUITES
from benchmarks.timing import Clock, interleave, quartiles, ratios

TINY = Case("causal", 20, D=8, program=BACKWARD)


@dataclass(frozen=True)
class Planted:
    """The reference, with its scale multiplied, or refusing, or failing."""

    name: str
    scale: float = 1.0
    refusal: str | None = None
    rounds: tuple[str, ...] = ()

    def refuses(self, request: Request) -> str | None:
        return self.refusal

    def run(self, request: Request) -> Mapping[str, torch.Tensor]:
        if not self.scale:
            raise RuntimeError("planted failure\nsecond line")
        return Reference().run(replace(request, scale=request.scale * self.scale))


PLANTED = (
    Planted("thousandth", scale=1.001),
    Planted("honest"),
    Planted("shy", refusal="would rather not"),
    Planted("failing", scale=0.0),
)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[Implementation]:
    for kernel in PLANTED:
        monkeypatch.setitem(torch_impl.kernels.KERNELS, kernel.name, kernel)
    return [find(f"torch {kernel.name}") for kernel in PLANTED]


class TestTiming:
    def test_programs_take_turns_and_each_round_begins_with_another(self) -> None:
        turns: list[str] = []
        calls: dict[str, Any] = {name: [lambda name=name: turns.append(name)] for name in "ABC"}
        ticks = iter(range(10**6))
        samples = interleave(calls, 3, Clock("ticks", lambda: float(next(ticks))))
        assert "".join(turns) == "AABBCC" + "BCA" + "CAB"
        assert {name: len(found) for name, found in samples.items()} == {"A": 3, "B": 3, "C": 3}

    def test_inputs_are_rotated(self) -> None:
        seen: list[int] = []
        ticks = iter(range(10**6))
        clock = Clock("ticks", lambda: float(next(ticks)))
        _ = interleave({"A": [lambda n=n: seen.append(n) for n in range(3)]}, 4, clock)
        assert seen == [0, 1, 2, 0, 1]

    def test_a_short_sample_holds_many_calls(self) -> None:
        seen: list[int] = []
        now = [0.0]

        def call() -> None:
            seen.append(1)
            now[0] += 1e-3

        samples = interleave({"A": [call]}, 1, Clock("own", lambda: now[0]))
        assert samples["A"] == [pytest.approx(1.0)]
        assert len(seen) == 1 + 5

    def test_a_ratio_is_the_median_of_each_rounds_own(self) -> None:
        # The second round was slow for both: medians of times would say 1.0.
        assert quartiles(ratios([1.0, 20.0, 3.0], [2.0, 40.0, 2.0]))[1] == 0.5


class TestJudging:
    def test_only_what_is_right_has_a_time(self, planted: list[Implementation]) -> None:
        rows = {r.implementation: r for r in measure("s", [TINY], planted, rounds=2)}
        statuses = {name.removeprefix("torch "): r.status for name, r in rows.items()}
        assert statuses == {"thousandth": WRONG, "honest": TIMED, "shy": REFUSED, "failing": WRONG}
        assert {name: len(r.samples) for name, r in rows.items() if r.samples} == {"torch honest": 2}
        assert "z rms" in rows["torch thousandth"].note
        assert rows["torch shy"].note == "would rather not"
        assert rows["torch failing"].note == "raised RuntimeError: planted failure"
        assert not Results(tuple(rows.values()), {}, {}).ok
        assert Results((rows["torch honest"], rows["torch shy"]), {}, {}).ok

    def test_a_peer_that_differs_is_timed_and_marked(self) -> None:
        def off(case: Case) -> Attention:
            inner = PEERS["SDPA"].make(case)
            return Attention(lambda q, *rest: inner.function(q * 1.001, *rest), inner.extras)

        peer = replace(PEERS["SDPA"], name="off", make=off)
        (found,) = measure("s", [replace(TINY, program=FORWARD)], [peer], rounds=2)
        assert (found.status, len(found.samples)) == (DIFFERS, 2)
        assert "output: z rms" in found.note

    @pytest.mark.parametrize("name", ["output", "d query", "d key", "d value"])
    def test_no_result_escapes(self, name: str) -> None:
        with alone(TINY):
            program = build(find("torch reference"), TINY, 1)
            right = program.results(correctness.cotangent(TINY))
            assert all(verdict.agrees for verdict in correctness.check(TINY, program))
            # Of a row and a head that are not checked by the budget, and of one that is.
            for at in ((0, 11, 3, 5), (0, correctness.rows(TINY.S)[2], 0, 0)):
                wrong = {key: x.copy() for key, x in right.items()}
                wrong[name][at] = np.nan
                bad = replace(program, results=lambda _, wrong=wrong: wrong)
                assert not all(verdict.agrees for verdict in correctness.check(TINY, bad))

    def test_checked_rows_are_of_every_stripe(self) -> None:
        chosen = correctness.rows(4096)
        assert (chosen[0], chosen[-1], len(chosen)) == (0, 4095, correctness.ROWS)
        assert max(np.diff(chosen)) < 2 * 4096 / (correctness.ROWS - 2)

    def test_checked_heads_are_whole_groups(self) -> None:
        found = correctness.part(Case(S=16, B=3, H=6, K=3))
        assert (found.row, found.heads, found.kv_heads) == (2, (0, 1, 4, 5), (0, 2))

    def test_grouped_heads_and_rows_are_judged(self) -> None:
        case = replace(TINY, B=2, H=6, K=3)
        with alone(case):
            program = build(find("torch reference"), case, 1)
            assert all(verdict.agrees for verdict in correctness.check(case, program))
            tiled = {
                name: x[:, :, ::-1] if name == "output" else x
                for name, x in program.results(correctness.cotangent(case)).items()
            }
            assert not all(verdict.agrees for verdict in correctness.check(case, replace(program, results=lambda _: tiled)))

    def test_too_much_memory_is_refused_before_it_is_taken(self) -> None:
        with pytest.raises(TooLarge, match=r"scores .* GB must fit in .* GB"):
            _ = build(find("torch reference"), Case(S=10**6))

    @pytest.mark.parametrize("mask", MASKS)
    def test_peers_that_are_here_agree_with_the_oracle(self, mask: str) -> None:
        # Grouped heads and a T of one tile: each adapter's masks, scale and layout.
        case = Case(mask, 64, H=4, K=4 if mask == "dense" else 2, D=16)
        peers = [peer for peer in PEERS.values() if not peer.slow and not missing(peer)]
        with alone(case):
            rows = enter("s", case, peers).rows
        assert {r.implementation: r.note for r in rows.values() if r.status not in (TIMED, REFUSED)} == {}
        assert {"SDPA", "SDPA strided", "SDPA math", "jax.nn", "flax linen"} <= {
            n for n, r in rows.items() if r.status == TIMED
        }

    def test_layers_agree_with_the_oracle(self) -> None:
        # The other ways to call NNX differ in nothing but their overhead, and each is compiled for a second.
        names = [name for name in modules.LAYERS if "nnx." not in name]
        rows = modules.enter(FORWARD, wanted=names).rows
        assert list(rows) == names
        assert {r.implementation: r.note for r in rows.values() if r.status != TIMED} == {}


class TestCases:
    @pytest.mark.parametrize("mask", MASKS)
    def test_pairs_are_counted_exactly(self, mask: str) -> None:
        case = Case(mask, 300, B=2, H=3)
        dense = np.broadcast_to(case.allowed(), (2, 1, 300, 300))
        assert case.pairs == 3 * dense.sum()
        assert np.array_equal(case.rows([0, 7, 299]), dense[:, :, [0, 7, 299]])

    def test_flops_of_dense_attention_are_those_of_the_papers(self) -> None:
        case = Case("dense", 512, H=4, D=32)
        assert case.flops == 4 * 512 * 512 * 32 * 4
        assert replace(case, program=BACKWARD).flops == 3.5 * case.flops
        assert case.bytes == 4 * 512 * 4 * 32 * 4

    def test_inputs_are_the_same_in_every_process_and_dtype(self) -> None:
        single, again = drawn(Case(S=8), 2), drawn(Case(S=8, dtype="float64"), 1)
        assert np.array_equal(single[0][0], again[0][0])
        assert not np.array_equal(single[0][0], single[1][0])

    @pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.masks])
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_a_suites_cases_are_distinct_and_can_be_masked(self, name: str, device: str) -> None:
        cases = list(SUITES[name].cases(device))
        assert len({case.name for case in cases}) == len(cases) > 0
        assert {case.program for case in cases} <= set(PROGRAMS)

    def test_documents_are_uneven_and_on_no_tiles_edge(self) -> None:
        edges = offsets(4096)
        assert len(edges) == 9
        assert len(set(np.diff(edges))) > 4
        assert all(edge % 64 for edge in edges[1:-1])
