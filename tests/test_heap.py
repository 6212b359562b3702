"""Freed memory stays with the program, and goes back when it is much: in a program of its own, for it is all of it."""

import subprocess
import sys

import pytest

from stablediff.heap import _glibc

pytestmark = pytest.mark.skipif(_glibc() is None, reason="another C library")

SCRIPT = """
import resource
import torch
from stablediff.heap import give_back, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(SIZE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024

SIZE = 2**26
give_back()  # nothing is free yet
print(faults())
assert keep_freed_memory()
torch.ones(SIZE // 4)
print(faults())
print(resident())
give_back()
print(resident())
blocks = [torch.ones(SIZE // 4) for _ in range(12)]
last = torch.ones(100)
del blocks
print(resident())
give_back()
print(resident())
"""


def test_large_blocks_are_used_again_and_what_is_much_goes_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    by_default, kept, small, small_after, large, large_after = (int(line) for line in done.stdout.split())
    size = 2**26
    assert by_default > 20 * size // 2**21, "or this test says nothing"
    assert kept < by_default / 10
    assert abs(small_after - small) < size // 2, "a small model's memory is kept for its next picture"
    assert large - large_after > 10 * size
