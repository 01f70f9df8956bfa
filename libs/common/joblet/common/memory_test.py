import ctypes

from joblet.common.memory import Heap, resident_bytes

BLOCK_BYTES = 100_000  # below the size from which glibc maps each block by itself
BLOCKS = 640


def test_memory_that_was_freed_in_the_middle_of_the_heap_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc_trim(0)  # what other tests have freed would be taken again, and the process would not grow
    heap = Heap()
    blocks = [libc.malloc(BLOCK_BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK_BYTES)
    *others, last = (ctypes.c_void_p(block) for block in blocks)
    for freed in others:
        libc.free(freed)
    full = resident_bytes()
    heap.trim()
    assert resident_bytes() < full - BLOCK_BYTES * BLOCKS // 2
    libc.free(last)
