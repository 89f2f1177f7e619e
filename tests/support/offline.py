"""Code for a Python where no other machine can be asked."""

HOOK = """
import sys
def refuse(event, args):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(args[1], tuple)):
        print("NETWORK", event, args, file=sys.stderr, flush=True)
        raise OSError("no network is needed")
    if event == "socket.bind" and isinstance(args[1], tuple):
        print("SERVER", args, file=sys.stderr, flush=True)
sys.addaudithook(refuse)
"""
"""What looks for one is refused and told on stderr, and a port that is opened is told."""
