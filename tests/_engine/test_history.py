"""Histories of bounds: bounded, whatever the steps."""

import numpy as np

from jaxvi._engine.history import HistoryRecorder


def test_history_is_bounded():
    """However many blocks, rows stay under the limit, and their mean is that of all blocks."""
    recorder, blocks, lane = HistoryRecorder(1, 50, float), 20_000, np.zeros(1, int)
    for chunk in range(blocks // 8):
        rows = np.arange(8 * chunk, 8 * chunk + 8, dtype=float)[:, None]
        recorder.add(rows, lane, lane + 400 * chunk, 50, lane + 400 * chunk + 400)
    history = recorder.history(50 * blocks, 1)
    assert 512 < len(history.step) <= 2048
    stretch = history.step[0] // 50
    np.testing.assert_array_equal(np.diff(history.step), 50 * stretch)
    means = np.arange(blocks // stretch * stretch).reshape(-1, stretch).mean(-1)
    np.testing.assert_allclose(history.bound[:, 0], means[: len(history.step)])
