/* Counts what arrives, each datagram once, and sends back what asks for it.
 *
 * It reads the datagrams whole, as an application does.  It waits only when a read was not full.
 */
#include "load.h"

#include <sys/epoll.h>
#include <unistd.h>

#define SEEN_BITS (1u << 28) /* sequence numbers told apart */
#define ROOM 65536           /* of one message: with UDP_GRO it holds many datagrams */
#define GRO_DEPTH 16
#define READY 64
#define TICK_MS 50

struct tally {
    unsigned char *seen;
    uint64_t received, unique, bytes, short_ones, first_ns, last_ns;
};

static unsigned char *memory;
static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH];
static struct sockaddr_in6 senders[BATCH];
static char control[BATCH][CMSG_SPACE(sizeof(int))];

/* The datagram asks to be sent back. */
static int count_datagram(struct tally *t, const unsigned char *data, size_t size)
{
    struct stamp stamp = {0};
    if (size >= sizeof stamp) {
        memcpy(&stamp, data, sizeof stamp);
        if (stamp.sequence & ECHO_BIT)
            return stamp.sequence != HELLO;
    }
    t->received++, t->bytes += size;
    if (size < sizeof stamp)
        t->short_ones++;
    else if (stamp.sequence < SEEN_BITS) {
        unsigned char bit = (unsigned char)(1u << (stamp.sequence & 7));
        t->unique += !(t->seen[stamp.sequence >> 3] & bit);
        t->seen[stamp.sequence >> 3] |= bit;
    }
    return 0;
}

static size_t segment_size(struct msghdr *message, size_t whole)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return (size_t)size;
        }
    return whole;
}

static void count_message(struct tally *t, const struct options *o, int fd, int i)
{
    size_t whole = messages[i].msg_len, step = segment_size(&messages[i].msg_hdr, whole);
    for (size_t at = 0; at < whole; at += step) {
        unsigned char *data = (unsigned char *)parts[i].iov_base + at;
        size_t size = whole - at < step ? whole - at : step;
        if (count_datagram(t, data, size) && o->echo)
            sendto(fd, data, size, 0, (struct sockaddr *)&senders[i], messages[i].msg_hdr.msg_namelen);
    }
}

/* One read of one socket; 1 = it was full, so there may be more. */
static int read_some(struct tally *t, const struct options *o, int fd)
{
    int depth = o->gro ? GRO_DEPTH : BATCH;
    for (int i = 0; i < depth; i++) {
        parts[i] = (struct iovec){memory + (size_t)i * ROOM, ROOM};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1,
            .msg_name = o->echo ? &senders[i] : NULL, .msg_namelen = o->echo ? sizeof senders[i] : 0,
            .msg_control = o->gro ? control[i] : NULL, .msg_controllen = o->gro ? sizeof control[i] : 0};
    }
    int count = recvmmsg(fd, messages, (unsigned)depth, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++)
        count_message(t, o, fd, i);
    if (count > 0)
        t->last_ns = now_ns();
    if (count > 0 && t->received && !t->first_ns)
        t->first_ns = t->last_ns;
    return count == depth;
}

static int watch(const struct end *end)
{
    int poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0)
        die("epoll_create1");
    for (int i = 0; i < (end->near ? end->conversations : 1); i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = end->sockets[i]};
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, end->sockets[i], &event) < 0)
            die("epoll_ctl");
    }
    return poll_fd;
}

void run_receive(struct end *end, const struct options *o)
{
    struct tally t = {.seen = calloc(SEEN_BITS / 8, 1)};
    memory = malloc((size_t)BATCH * ROOM);
    if (!t.seen || !memory)
        die("memory");
    int poll_fd = watch(end);
    uint64_t opened = now_ns();
    while (!stopped) {
        struct epoll_event ready[READY];
        int count = epoll_wait(poll_fd, ready, READY, TICK_MS);
        for (int i = 0; i < count; i++)
            while (read_some(&t, o, ready[i].data.fd) && end->conversations == 1 && !stopped) { }
        uint64_t idle = count > 0 ? 0 : now_ns() - (t.last_ns ? t.last_ns : opened);
        if (idle > (t.last_ns ? (uint64_t)o->idle_ms * 1000000u : (uint64_t)(o->seconds * 1e9)))
            break;
    }
    close(poll_fd);
    printf("{\"received\": %llu, \"unique\": %llu, \"duplicates\": %llu, \"bytes\": %llu, \"seconds\": %.6f}\n",
           (unsigned long long)t.received, (unsigned long long)t.unique,
           (unsigned long long)(t.received - t.unique - t.short_ones), (unsigned long long)t.bytes,
           (double)(t.last_ns - t.first_ns) / 1e9);
}
