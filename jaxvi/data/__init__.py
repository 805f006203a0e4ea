"""Rows of data: minibatches, streams, column files, and rows spread over devices."""

from jaxvi.data._batches import Chunk as Chunk
from jaxvi.data._batches import ScaledRows as ScaledRows
from jaxvi.data._batches import at_block as at_block
from jaxvi.data._batches import at_blocks as at_blocks
from jaxvi.data._batches import at_comparison as at_comparison
from jaxvi.data._batches import at_step as at_step
from jaxvi.data._batches import first_batch as first_batch
from jaxvi.data._batches import num_compared as num_compared
from jaxvi.data._batches import resident as resident
from jaxvi.data._batches import stream_key as stream_key
from jaxvi.data._minibatch import Minibatch
from jaxvi.data._sharded import checksum as checksum
from jaxvi.data._sharded import is_spread as is_spread
from jaxvi.data._sharded import placed as placed
from jaxvi.data._sharded import require_all_rows as require_all_rows
from jaxvi.data._sharded import rows_here as rows_here
from jaxvi.data._stream import ShuffledRows as ShuffledRows
from jaxvi.data._stream import Stream
from jaxvi.data._stream import WrongCount as WrongCount
from jaxvi.data._stream import in_memory as in_memory
from jaxvi.data._stream import regular as regular

__all__ = ["Minibatch", "Stream"]
