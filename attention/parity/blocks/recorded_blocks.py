"""A recorded model in a comparison block by block: nothing runs, the recorded arrays are returned."""

# Recorded arrays have no static types.
# pyright: standard

from __future__ import annotations

from collections.abc import Sequence

from attention.parity.adapters.program import Call, Made
from attention.parity.blocks.instrumented_model import InstrumentedModel, Run
from attention.parity.compare.recorded_model import RecordedModel
from attention.parity.compare.replayed_program import RECORDED, RecordedProgram
from attention.parity.numerics.array_kinds import is_float
from attention.spec.errors import SideFailed


class ReplayedModel(InstrumentedModel):
    """A recorded model.

    Args:
        model: its blocks are the parts that can be compared.
    """

    def __init__(self, model: RecordedModel) -> None:
        self.model, self.program = model, model.program
        self.modules = {"": model, **model.blocks}

    @property
    def parts(self) -> list[str]:
        return list(self.model.blocks)

    def record(self, call: Call, paths: set[str]) -> Run:
        blocks = {path: block for path, block in self.model.blocks.items() if path in paths}
        return Run(
            self.program.run(call).outputs,
            # Options of a call are needed to run a block, and this one is not run.
            {path: Call((), dict(block.received)) for path, block in blocks.items()},
            {path: block.calls for path, block in blocks.items()},
        )

    def part(self, path: str, received: Call, slots: Sequence[str]) -> RecordedProgram:
        block = self.model.blocks[path]
        if any(slot not in block.received for slot in slots):
            raise SideFailed(f"{path} of {self.program.name} was recorded without {', '.join(slots)}")
        given = tuple(block.received[slot] for slot in slots)
        arrays = (*given, *block.returned.values())
        dtype = next((str(x.dtype) for x in arrays if is_float(x)), "float32")
        params = {f"block.{n.removeprefix(f'{path}.')}": x for n, x in self.program.params.items() if n.startswith(f"{path}.")}
        name = f"{self.program.framework} {path}{RECORDED}"
        return RecordedProgram(name, self.program.framework, dtype, Call(given), params, {}, Made(dict(block.returned)))
