"""Two ends of real traffic for the demo: a TCP transfer and a UDP exchange.

    traffic.py tcp-receive PORT          accept one connection, read to its end
    traffic.py tcp-send HOST PORT BYTES  send that many random bytes
    traffic.py udp-echo PORT             answer every datagram with its own bytes, until ended
    traffic.py udp-ask HOST PORT         send datagrams of many sizes, compare each answer

Both TCP ends print "BYTES SHA256" of what passed through them: equal lines, equal data. Every wait
has an end, so a tunnel that loses everything makes a failure and no hang. Standard library only.
"""

import hashlib
import os
import socket
import sys
from collections.abc import Callable

TIMEOUT_S = 30
CHUNK = 1 << 20
# From an empty datagram to the largest that fits the smallest tunnel MTU, 1450 less IP and UDP headers.
DATAGRAM_SIZES = [0, 1, 2, 3, 64, 511, 512, 1000, 1280, 1421, 1422]


def tcp_receive(port: str) -> None:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", int(port)), family=family, dualstack_ipv6=both) as server:
        server.settimeout(TIMEOUT_S)
        connection, _ = server.accept()
    connection.settimeout(TIMEOUT_S)
    digest, total, buffer = hashlib.sha256(), 0, bytearray(CHUNK)
    with connection:
        while count := connection.recv_into(buffer):
            digest.update(memoryview(buffer)[:count])
            total += count
    print(total, digest.hexdigest())


def tcp_send(host: str, port: str, size: str) -> None:
    digest, left = hashlib.sha256(), int(size)
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        while left:
            chunk = os.urandom(min(CHUNK, left))
            digest.update(chunk)
            connection.sendall(chunk)
            left -= len(chunk)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # the other end closes when it has read everything
    print(size, digest.hexdigest())


def udp_echo(port: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", int(port)))
        while True:
            data, sender = server.recvfrom(65535)
            server.sendto(data, sender)


def udp_ask(host: str, port: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((host, int(port)))
        for size in DATAGRAM_SIZES:
            question = os.urandom(size)
            client.send(question)
            try:
                answer = client.recv(65535)
            except TimeoutError:
                sys.exit(f"no answer to a datagram of {size} bytes")
            if answer != question:
                sys.exit(f"the answer to a datagram of {size} bytes differs ({len(answer)} bytes)")
    print(f"{len(DATAGRAM_SIZES)} datagrams of 0 to {DATAGRAM_SIZES[-1]} bytes came back unchanged")


COMMANDS: dict[str, Callable[..., None]] = {
    "tcp-receive": tcp_receive,
    "tcp-send": tcp_send,
    "udp-echo": udp_echo,
    "udp-ask": udp_ask,
}


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    try:
        COMMANDS[sys.argv[1]](*sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"{' '.join(sys.argv[1:])}: {error}")


if __name__ == "__main__":
    main()
