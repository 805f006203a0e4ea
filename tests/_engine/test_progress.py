"""Progress: a bar on a terminal, lines elsewhere, silence, a callable."""

import io

from jaxvi._engine import Progress, make_reporter
from jaxvi._engine.progress import describe


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


STATE = Progress(500, 1000, 4, 3, -12.5, 1.25)


def test_progress_is_a_bar_on_a_terminal():
    """One line that overwrites itself and is wiped at the end."""
    stream = Terminal()
    report, close = make_reporter(None, stream)
    report(STATE)
    close()
    assert "[############............]" in stream.getvalue()
    assert describe(STATE) in stream.getvalue()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith(" \r")


def test_progress_is_plain_lines_elsewhere():
    """At once where asked for, and no more than one line in ten seconds."""
    stream = io.StringIO()
    report, _ = make_reporter(True, stream)
    report(STATE)
    report(STATE)
    assert stream.getvalue() == describe(STATE) + "\n"
    quiet = io.StringIO()
    make_reporter(None, quiet)[0](STATE)
    assert quiet.getvalue() == ""
