"""Blocks of tensor memory."""

from __future__ import annotations

import ctypes
import threading

import pytest

from tfsrv._memory import MemoryBlock, idle_bytes, live_blocks

SIZES = [0, 1, 63, 64, 1000, 65_535, 65_536, 65_537, 131_072, 1 << 20, (1 << 24) - 1, 1 << 24]
MOST_IDLE = 63 << 20  # bytes


@pytest.mark.parametrize("size", [*SIZES, (1 << 24) + 1, 50_000_000])
def test_block_is_aligned_and_can_be_written_to_its_last_byte(size: int) -> None:
    block = MemoryBlock(size)
    assert block.address % 64 == 0
    ctypes.memset(block.address, 0xA5, size)


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1])
def test_refuses_a_size_that_overflows(size: int) -> None:
    before = live_blocks()
    with pytest.raises(MemoryError):
        MemoryBlock(size)
    assert live_blocks() == before


def test_counts_blocks_in_use() -> None:
    before = live_blocks()
    blocks = [MemoryBlock(size) for size in SIZES]
    assert live_blocks() == before + len(SIZES)
    for block in blocks:
        block.release()
        block.release()
    assert live_blocks() == before


def test_block_is_not_reused_before_it_was_given_back() -> None:
    first, second = MemoryBlock(100_000), MemoryBlock(100_000)
    assert abs(first.address - second.address) >= 100_000
    address = first.address
    first.release()
    assert MemoryBlock(100_000).address == address


def test_idle_memory_is_bounded() -> None:
    for size in SIZES:
        blocks = [MemoryBlock(size) for _ in range(20)]
        for block in blocks:
            block.release()
    assert 0 < idle_bytes() <= MOST_IDLE


def test_threads_never_share_a_block() -> None:
    failures: list[bytes] = []

    def work(number: int) -> None:
        mark = bytes([number]) * 8
        for _ in range(500):
            block = MemoryBlock(70_000)
            ctypes.memmove(block.address, mark, 8)
            ctypes.memmove(block.address + 69_992, mark, 8)
            seen = ctypes.string_at(block.address, 8) + ctypes.string_at(block.address + 69_992, 8)
            if seen != mark * 2:
                failures.append(seen)
            block.release()

    before = live_blocks()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert live_blocks() == before
