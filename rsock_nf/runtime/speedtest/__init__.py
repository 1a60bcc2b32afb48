"""How much a tunnel carries each way: ``asking`` at the client, ``serving`` at the server, both inside the instances.

The datagrams of a test are a conversation like that of an application, but it ends in the two processes.  So a test
takes the whole way through the tunnel, and nobody without the secret can begin one.  The server answers only what asks
it, sends for half a second after each question, at most at the rate that its configuration allows.
"""
