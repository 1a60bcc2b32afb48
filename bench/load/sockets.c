/* The sockets of one end, and how the far end learns its conversations: from a hello of each. */
#include "load.h"

#include <netdb.h>
#include <poll.h>

#define BUFFER_BYTES (4 << 20)
#define PATIENCE_NS 5000000000u
#define HELLO_MS 50

static struct addrinfo *resolve(const struct options *o)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_family = o->host ? AF_UNSPEC : AF_INET6,
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (o->host ? 0 : AI_PASSIVE)}, *found;
    int status = getaddrinfo(o->host, o->port, &hints, &found);
    if (status != 0) {
        fprintf(stderr, "udp_load: %s port %s: %s\n", o->host ? o->host : "*", o->port, gai_strerror(status));
        exit(1);
    }
    return found;
}

void open_end(struct end *end, const struct options *o)
{
    struct addrinfo *found = resolve(o);
    int off = 0, on = 1, size = BUFFER_BYTES;
    end->near = o->host != NULL;
    end->conversations = o->conversations;
    for (int i = 0; i < (end->near ? o->conversations : 1); i++) {
        int fd = end->sockets[i] = socket(found->ai_family, SOCK_DGRAM, 0);
        if (fd < 0)
            die("socket");
        if (!end->near && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) < 0)
            die("IPV6_V6ONLY");
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
        if (o->gro && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) < 0)
            die("UDP_GRO");
        if ((end->near ? connect : bind)(fd, found->ai_addr, found->ai_addrlen) < 0)
            die(end->near ? "connect" : "bind");
    }
    freeaddrinfo(found);
}

void say_hello(struct end *end)
{
    const struct stamp hello = {HELLO, 0};
    uint64_t start = now_ns();
    while (!stopped && now_ns() - start < PATIENCE_NS) {
        for (int i = 0; i < end->conversations; i++)
            if (send(end->sockets[i], &hello, sizeof hello, 0) < 0 && !transient(errno))
                die("send");
        /* The far end sends to all of them once it knows all of them: the last one is as good as any. */
        struct pollfd waiting = {end->sockets[end->conversations - 1], POLLIN, 0};
        if (poll(&waiting, 1, HELLO_MS) > 0 && waiting.revents == POLLIN)
            return;
    }
    if (stopped)
        return;
    errno = ETIMEDOUT;
    die("the far end sends nothing");
}

static int is_known(const struct end *end, int known, const struct sockaddr_in6 *peer)
{
    for (int i = 0; i < known; i++)
        if (end->peers[i].sin6_port == peer->sin6_port && !memcmp(&end->peers[i].sin6_addr, &peer->sin6_addr, 16))
            return 1;
    return 0;
}

void await_hellos(struct end *end, int fd)
{
    uint64_t start = now_ns();
    for (int known = 0; known < end->conversations && !stopped; ) {
        struct pollfd waiting = {fd, POLLIN, 0};
        if (now_ns() - start > PATIENCE_NS) {
            errno = ETIMEDOUT;
            die("not every conversation has shown its address");
        }
        if (poll(&waiting, 1, 100) <= 0)
            continue;
        unsigned char data[MAX_SIZE];
        struct sockaddr_in6 peer = {0};
        socklen_t room = sizeof peer;
        if (recvfrom(fd, data, sizeof data, MSG_DONTWAIT, (struct sockaddr *)&peer, &room) < 0)
            continue;
        if (!is_known(end, known, &peer))
            end->peers[known++] = peer;
    }
}
