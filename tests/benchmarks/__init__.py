"""Benchmarks, run by hand: `python -m tests.benchmarks.engine`, `growing`, `start`, `sweep`, `prefix`, `gpu`.

The one rule: what is compared is measured in alternating repeats within one call, and told as ratios; no test asserts
a time. Each prints a table and, with --json FILE, writes every repeat. Peers come with `pip install '.[bench]'`.
"""
