"""The portable suite: every named case as plain files, so that an implementation in any language can be judged.

    export(folder)                 contracts x probes x dtypes, with the oracle's results and their budgets
    check(folder, function)        function(given) -> results by name, judged as both rooms are

The format is described in docs/cases_format.md; to read it needs nothing of this package.
"""

from attention.parity.suite.checking import check
from attention.parity.suite.given import Given, Question, question
from attention.parity.suite.layout import FORMAT, VERSION, Entry, Index, read_index
from attention.parity.suite.writing import export

__all__ = ["FORMAT", "VERSION", "Entry", "Given", "Index", "Question", "check", "export", "question", "read_index"]
