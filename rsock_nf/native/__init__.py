"""The native data path (Linux): established flows in C, under the event loop.  Everything else stays in Python.

The event loop waits in its selector.  ``selector`` waits in C instead, and while it waits, C serves the descriptors
that carry traffic: the packet socket, and the sockets of applications and targets.  It comes back for everything that
it does not know: a stranger, a control frame, an error, a timer.  There is no thread and no lock: Python changes the
tables only while C does not run.

``states`` shares the numbers of flows and conversations with C.  ``departures`` tells C by what each flow leaves,
``homes`` by which socket each conversation's datagrams do.  ``path`` has these parts, and brings what C left back to
the driver.  ``library`` finds the compiled code, ``build`` makes it; the C files are in ``c/``, and
``c/hot.h`` says in which order to read them.

Not here: any policy.  The Python twin of each C file says what it does.
"""
