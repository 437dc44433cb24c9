"""Results: every measured number that a page shows comes from a committed file that says when, how and where it was measured.

    python -m tools.results record parity      run the command that measures, keep what the pages need, write the pages
    python -m tools.results render             write the blocks of every page anew from the files
    python -m tools.results check              say what no file backs

    results/<name>.json = date, commit, command, machine, versions, data, pictures
    <!-- results: <name> --> ... <!-- end -->  =  a function of such files

recorded        the file                     figures        what is measured, and what is shown of it
pages           the blocks of a page         claims         numbers outside a block, repetitions, absent files
running         a command is run, and what it wrote is kept
"""
