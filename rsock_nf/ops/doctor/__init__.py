"""``rsock-nf doctor``: what stands in the way of a tunnel, looked at one by one, each with its remedy.

``examination`` has the order; ``host``, ``ways``, ``ports``, ``ends`` and ``running`` look at this host; ``dial`` and
``peer`` ask the server.  Nothing is changed for good.
"""
