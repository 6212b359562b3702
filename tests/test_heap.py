"""Freed memory stays with the program, and goes back when it is much: in a program of its own, for it is all of it."""

import subprocess
import sys

import pytest

from stablediff.heap import _glibc

pytestmark = pytest.mark.skipif(_glibc() is None, reason="another C library")

SCRIPT = """
import resource
import threading
import torch
from stablediff.heap import give_back, keep_freed_memory

def faults(size=2**26):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(size // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024

def many(number, size=2**26):
    blocks = [torch.ones(size // 4) for _ in range(number)]
    return torch.ones(100)  # above them, so that they do not go back by themselves

give_back()  # nothing is free yet
print(faults())
assert keep_freed_memory()

def give_back_after(number, size):
    kept = many(number, size)
    print(resident())
    give_back()
    print(resident())

give_back_after(2, 2**24)
faults()  # until there is a hole that fits, with what alignment adds
print(faults())
thread = threading.Thread(target=lambda: (faults(), print(faults())))
thread.start()
thread.join()
give_back_after(12, 2**26)
"""


def test_large_blocks_are_used_again_and_what_is_much_goes_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    by_default, few, few_after, kept, in_a_thread, many, many_after = (int(line) for line in done.stdout.split())
    size = 2**26
    assert by_default > 20 * size // 2**21, "or this test says nothing"
    assert kept < by_default / 10
    assert in_a_thread < by_default / 10
    assert few - few_after < size // 4, "a small model's memory is kept for its next picture"
    assert many - many_after > 10 * size
