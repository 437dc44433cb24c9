"""Mutation testing: how many known mistakes a parity test would notice.

A mutation turns a right call into a wrong one, which a correct program then runs: the program is right, the call is not. A
parity test that passes all the same cannot see that mistake. Every option of a contract has one mutation at least.
"""
