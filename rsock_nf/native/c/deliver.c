/* Datagrams leave by sockets of applications, targets and carriers: those of one size by one sendmsg(2).
 * Twin: sockets/datagrams.py, link/linux/udp.py.
 */
#include "hot.h"

#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

void mark(hot_engine *e, hot_source *s)
{
    if (s->dirty)
        return;
    s->dirty = 1;
    s->dirty_next = e->dirty;
    e->dirty = s;
}

static bool told_by_icmp(int error)
{
    return error == ECONNREFUSED || error == EMSGSIZE || error == EHOSTUNREACH || error == ENETUNREACH ||
           error == EPROTO;
}

/* One sendmsg(2).  segment: the size at which the kernel cuts; 0 = it does not.  Returns errno, 0 = sent. */
int send_datagrams(hot_source *s, const hot_destination *to, struct iovec *pieces, uint32_t count, uint32_t segment)
{
    uint8_t control[sizeof to->control + CMSG_SPACE(sizeof(uint16_t))] __attribute__((aligned(8)));
    struct msghdr message = {
        .msg_name = to->name_bytes ? (void *)(uintptr_t)to->name : NULL,
        .msg_namelen = to->name_bytes,
        .msg_iov = pieces,
        .msg_iovlen = count,
    };
    size_t bytes = to->control_bytes;
    memcpy(control, to->control, bytes);
    if (segment) {
        uint16_t size = (uint16_t)segment;
        struct cmsghdr *told = (struct cmsghdr *)(void *)(control + bytes);
        memset(told, 0, CMSG_SPACE(sizeof size));
        told->cmsg_len = CMSG_LEN(sizeof size);
        told->cmsg_level = SOL_UDP;
        told->cmsg_type = UDP_SEGMENT;
        memcpy(CMSG_DATA(told), &size, sizeof size);
        bytes += CMSG_SPACE(sizeof size);
    }
    message.msg_control = bytes ? control : NULL;
    message.msg_controllen = bytes;
    return sendmsg(s->fd, &message, MSG_DONTWAIT) < 0 ? errno : 0;
}

/* The same, and a second time if the first may only have reported what ICMP said of an earlier datagram. */
static int transmit(const hot_conversation *c, struct iovec *pieces, uint32_t count, uint32_t segment)
{
    int failure = 0;
    for (int attempt = 0; attempt < 2; attempt++) {
        failure = send_datagrams(c->out, &c->destination, pieces, count, segment);
        if (!told_by_icmp(failure))
            return failure;
        c->out->refused += failure == ECONNREFUSED;
    }
    return failure;
}

static void settle(hot_source *s, int failure, uint32_t datagrams)
{
    if (!failure)
        s->sent += datagrams;
    else if (failure == EAGAIN || failure == ENOBUFS)
        s->send_full += datagrams;
    else
        s->send_errors += datagrams;
}

/* One by one what could be a run.  Returns the errno of the first. */
static int send_singly(hot_conversation *c, struct iovec *pieces, uint32_t count)
{
    int first = transmit(c, pieces, 1, 0);
    settle(c->out, first, 1);
    for (uint32_t i = 1; i < count; i++)
        settle(c->out, transmit(c, pieces + i, 1, 0), 1);
    c->out->sent_singly += count > 1 ? count : 0;
    return first;
}

void deliver_now(hot_engine *e)
{
    delivery *d = &e->delivery;
    hot_conversation *c = d->conversation;
    if (!d->count)
        return;
    mark(e, c->out);
    if (d->count == 1 || (c->single_from && d->size >= c->single_from)) {
        send_singly(c, d->pieces, d->count);
    } else {
        int failure = transmit(c, d->pieces, d->count, d->size);
        if (failure != EINVAL && failure != EMSGSIZE && failure != EIO)
            settle(c->out, failure, d->count);
        else if (!send_singly(c, d->pieces, d->count)) /* the kernel refused the run, not the destination */
            c->single_from = failure == EMSGSIZE ? d->size : 1;
    }
    d->count = 0;
}

void deliver(hot_engine *e, hot_conversation *c, const uint8_t *data, uint32_t length)
{
    delivery *d = &e->delivery;
    bool follows = d->count && d->conversation == c && !d->closed && length && length <= d->size &&
                   d->count < UDP_SEGMENTS && d->bytes + length <= UDP_BYTES;
    if (!follows) {
        deliver_now(e);
        *d = (delivery){.conversation = c, .size = length};
    }
    d->pieces[d->count++] = (struct iovec){(void *)(uintptr_t)data, length};
    d->bytes += length;
    d->closed = length < d->size || !length;
}
