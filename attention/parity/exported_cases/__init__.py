"""Exported cases: every named case as plain files, against which an implementation in any language can be checked.

    export(folder)                 contracts x probes x dtypes, with the oracle's results and their budgets
    check(folder, function)        function(inputs) -> results by name, judged as both backends are

The format is described in docs/cases_format.md. Reading it needs nothing of this package.
"""

from attention.parity.exported_cases.checker import check
from attention.parity.exported_cases.file_format import FORMAT, VERSION, Entry, Index, read_index
from attention.parity.exported_cases.implementation_io import CaseCall, ExportedCase, exported_case
from attention.parity.exported_cases.writer import export

__all__ = ["FORMAT", "VERSION", "CaseCall", "Entry", "ExportedCase", "Index", "check", "export", "exported_case", "read_index"]
