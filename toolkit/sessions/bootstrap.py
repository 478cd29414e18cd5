"""Start of a worker: set threads and arithmetic before a library loads, then serve.

`toolkit.sessions.remote` sends the source of this file over the channel, and then the settings.
"""

import os
import sys

if __name__ == "__channelexec__":
    start = channel.receive()  # type: ignore[name-defined]  # noqa: F821 - execnet provides it
    for name in start["removed"]:
        os.environ.pop(name, None)
    os.environ.update(start["environment"])
    sys.path[:] = start["path"]
    log = os.open(start["stderr"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 2)
    os.close(log)
    confinement = os.environ.get("TOOLKIT_CONFINEMENT")  # how the process confined itself
    channel.send((os.getpid(), confinement))  # type: ignore[name-defined]  # noqa: F821
    from toolkit.sessions.worker import serve

    serve(channel)  # type: ignore[name-defined]  # noqa: F821
