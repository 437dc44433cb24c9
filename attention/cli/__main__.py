"""`python -m attention.cli`."""

from attention.cli import main

main()
