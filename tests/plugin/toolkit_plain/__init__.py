"""A format and a runtime of another package: layers as numpy arrays, computed by numpy.

This module is imported whenever the tables are shown, so it must not import heavy packages.
"""

from toolkit.artifacts.formats import Format
from toolkit.sessions.runtimes import Runtime

FORMAT = Format(
    name="plain",
    module="toolkit_plain.format",
    suffix=".npz",
    distributions=("toolkit-plain",),
)
RUNTIME = Runtime(
    name="plain",
    module="toolkit_plain.runtime",
    package="toolkit_plain.engine",
    distributions=("toolkit-plain",),
    formats=("plain",),
    install="pip install toolkit-plain",
    one_thread=True,
    environment={"PLAIN_ENGINE": "quiet"},
)
REPLACEMENT = Runtime(
    name="eager",
    module="toolkit_plain.runtime",
    package="toolkit_plain.engine",
    distributions=("toolkit-plain",),
    formats=("plain",),
    install="pip install toolkit-plain",
)
