/* Messages from UDP sockets: many in one read, what the kernel says of each, and who sent it.
 * Twin: sockets/buffers.py, link/linux/mmsg.py, link/linux/udp.py.
 */
#include "hot.h"

#include <netinet/udp.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* -- a ring of buffers */

int ring_init(ring *r, uint32_t buffer_bytes)
{
    memset(r, 0, sizeof *r);
    r->buffer_bytes = buffer_bytes;
    /* If buffers were a power of two apart, they would begin in the same cache sets. */
    r->stride = (buffer_bytes + 63) / 64 * 64 + 1280 + 64;
    r->data = malloc((size_t)r->stride * MESSAGES);
    if (!r->data)
        return -1;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        r->vectors[i] = (struct iovec){ring_buffer(r, i), buffer_bytes};
        r->messages[i].msg_hdr.msg_iov = &r->vectors[i];
        r->messages[i].msg_hdr.msg_iovlen = 1;
        r->messages[i].msg_hdr.msg_name = r->names[i];
        r->messages[i].msg_hdr.msg_control = r->controls[i];
    }
    r->used = MESSAGES;
    return 0;
}

void ring_free(ring *r)
{
    free(r->data);
    r->data = NULL;
}

/* Fill at most limit buffers.  Returns how many, or -1 with errno. */
int ring_read(ring *r, int fd, uint32_t limit)
{
    for (uint32_t i = 0; i < r->used; i++) { /* both are value-result (recvmsg(2)) */
        r->messages[i].msg_hdr.msg_namelen = sizeof r->names[i];
        r->messages[i].msg_hdr.msg_controllen = sizeof r->controls[i];
    }
    limit = limit < 1 ? 1 : limit < MESSAGES ? limit : MESSAGES;
    int count = recvmmsg(fd, r->messages, limit, MSG_DONTWAIT, NULL);
    r->used = count > 0 ? (uint32_t)count : 1; /* a failed call may have touched the first */
    return count;
}

/* -- a message */

void read_ancillary(struct msghdr *message, ancillary *told)
{
    *told = (ancillary){0};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        const uint8_t *body = CMSG_DATA(c);
        size_t bytes = c->cmsg_len - CMSG_LEN(0);
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO && bytes >= sizeof(int)) {
            int size;
            memcpy(&size, body, sizeof size);
            told->segment = size > 0 ? (uint32_t)size : 0;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO && bytes >= 12) {
            told->source_bytes = 12; /* no device, ipi_spec_dst, no address: what an answer needs */
            memcpy(told->source + 4, body + 4, 4);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO && bytes >= 20) {
            bool multicast = body[0] == 0xFF, link_local = body[0] == 0xFE && (body[1] & 0xC0) == 0x80;
            told->source_bytes = 20;
            if (!multicast)
                memcpy(told->source, body, 16);
            if (multicast || link_local)
                memcpy(told->source + 16, body + 16, 4);
        }
    }
}

/* Who sent message index: sockaddr, then where it was sent to, as Python names a peer.  It is written into the
 * memory of the ring, where the ancillary data was.  Returns its bytes. */
uint32_t name_sender(ring *r, uint32_t index, const ancillary *told, const uint8_t **peer)
{
    uint8_t *at = r->controls[index];
    uint32_t name_bytes = r->messages[index].msg_hdr.msg_namelen;
    name_bytes = name_bytes > 28 ? 28 : name_bytes;
    memcpy(at, r->names[index], name_bytes);
    memcpy(at + name_bytes, told->source, told->source_bytes);
    *peer = at;
    return name_bytes + told->source_bytes;
}

void *look_up(const table *t, const hot_source *s, const uint8_t *peer, uint32_t bytes)
{
    uint8_t key[KEY_BYTES];
    uint32_t length = owned_key(key, s, peer, bytes);
    return length ? table_get(t, key, length) : NULL;
}

/* -- a read */

#define READ_BYTES (256u << 10) /* so little that it stays in the CPU's cache until it is sent */

/* Read messages; an error of an earlier send is counted, and it is read again. */
uint32_t read_messages(hot_engine *e, hot_source *s, int64_t *waited)
{
    ring *r = &e->udp_ring;
    hot_waiting *w = &s->waiting;
    *waited = 0;
    for (int attempt = 0; attempt < 4; attempt++) {
        uint32_t limit = waiting_limit(w, e->now);
        limit = s->read_limit < limit ? s->read_limit : limit;
        int count = ring_read(r, s->fd, limit);
        if (count > 0) {
            uint32_t longest = 1;
            *waited = waiting_read(w, s->fd, e->now, (uint32_t)count >= limit);
            for (uint32_t i = 0; i < (uint32_t)count; i++)
                longest = r->messages[i].msg_len > longest ? r->messages[i].msg_len : longest;
            s->read_limit = READ_BYTES / longest < MESSAGES ? READ_BYTES / longest : MESSAGES;
            return (uint32_t)count;
        }
        if (!count || errno == EAGAIN || errno == EINTR) {
            waiting_empty(w, e->now);
            return 0;
        }
        mark(e, s);
        if (errno == ECONNREFUSED)
            s->refused++;
        else
            s->receive_errors++;
    }
    return 0;
}
