/* The reference: a UDP relay as small as one can be, recvmmsg in, sendmmsg out.
 *
 *   relay LISTEN_PORT TARGET_HOST TARGET_PORT
 *
 * One on each host is the floor of a conventional user-space tunnel: every datagram crosses
 * user space twice, nothing is added, checked, encrypted or merged.  It serves one client
 * address, the last that sent.  No GSO and no GRO, on purpose.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define ROOM 2048

static void die(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_socket(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_family = host ? AF_UNSPEC : AF_INET6,
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (host ? 0 : AI_PASSIVE)}, *found;
    if (getaddrinfo(host, port, &hints, &found) != 0)
        die("not an address and port");
    int fd = socket(found->ai_family, SOCK_DGRAM, 0), off = 0, size = 4 << 20;
    if (fd < 0)
        die("socket");
    if (!host)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if ((host ? connect : bind)(fd, found->ai_addr, found->ai_addrlen) < 0)
        die(host ? "connect" : "bind");
    freeaddrinfo(found);
    return fd;
}

/* Move what waits on `from` to `to`; `learn`: remember the sender in `peer`, else send to it. */
static void move(int from, int to, struct sockaddr_storage *peer, socklen_t *peer_size, int learn)
{
    static unsigned char memory[BATCH][ROOM];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){memory[i], ROOM};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1,
                .msg_name = learn ? peer : NULL, .msg_namelen = learn ? sizeof *peer : 0};
        }
        int count = recvmmsg(from, messages, BATCH, MSG_DONTWAIT, NULL);
        if (count <= 0)
            return;
        if (learn)
            *peer_size = messages[count - 1].msg_hdr.msg_namelen;
        for (int i = 0; i < count; i++) {
            parts[i].iov_len = messages[i].msg_len;
            messages[i].msg_hdr.msg_name = learn || !*peer_size ? NULL : peer;
            messages[i].msg_hdr.msg_namelen = learn ? 0 : *peer_size;
        }
        for (int sent = 0; sent < count; ) {
            int n = sendmmsg(to, messages + sent, (unsigned)(count - sent), 0);
            sent += n > 0 ? n : 1; /* one that is refused is lost, the rest go on */
        }
        if (count < BATCH)
            return;
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: relay LISTEN_PORT TARGET_HOST TARGET_PORT\n");
        return 2;
    }
    int front = open_socket(NULL, argv[1]), back = open_socket(argv[2], argv[3]);
    struct sockaddr_storage peer;
    socklen_t peer_size = 0;
    struct pollfd waiting[2] = {{front, POLLIN, 0}, {back, POLLIN, 0}};
    puts("ready"), fflush(stdout);
    while (poll(waiting, 2, -1) >= 0 || errno == EINTR) {
        if (waiting[0].revents)
            move(front, back, &peer, &peer_size, 1);
        if (waiting[1].revents)
            move(back, front, &peer, &peer_size, 0);
    }
    die("poll");
}
