"""A ROS domain for each process that runs tests, so that none hears the nodes of another."""

import os
import socket

DOMAINS = range(1, 101)  # their ports lie below those that Linux hands out


def claim_domain() -> tuple[socket.socket, int]:
    """
    Return a claim and the domain that no other claim on this machine is for.

    The claim is a socket with the domain in its name, which the kernel lets one process have, and
    frees when that process ends, however it ends.
    """
    first = os.getpid()
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(first + step) % len(DOMAINS)]
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f'\0kpfeat tests on ROS domain {domain}')
        except OSError:  # taken
            claim.close()
            continue
        return claim, domain
    raise RuntimeError(
        f'all {len(DOMAINS)} ROS domains are taken by test runs on this machine; wait for one'
    )
