"""How long chunks are: the host looks at lanes a few times a second."""

MAX_BLOCKS = 64  # of a chunk, which is what its program has room for
_CHUNK_SECONDS = 0.3


def next_blocks(blocks: int, seconds_a_block: float) -> int:
    """Blocks of the next chunk, after one of `blocks`."""
    return min(MAX_BLOCKS, 4 * blocks, max(1, int(_CHUNK_SECONDS / seconds_a_block)))
