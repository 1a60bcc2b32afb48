/* The sockets of applications and targets: reads of many datagrams, and runs that leave by one sendmsg(2).
 * Twin: sockets/datagrams.py, sockets/buffers.py, link/linux/mmsg.py, link/linux/udp.py.
 */
#include "hot.h"

#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
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

/* -- out: delivering */

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

/* -- in: reading */

/* What the kernel said of a message: at which size to cut it, and to which address it came. */
typedef struct {
    uint32_t segment;
    uint32_t source_bytes;
    uint8_t source[20];
} ancillary;

static void read_ancillary(struct msghdr *message, ancillary *told)
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

/* The run that is being gathered: datagrams of one peer and one size; the last may be shorter. */
typedef struct {
    hot_source *source;
    hot_conversation *conversation;
    uint32_t count, size;
    bool closed;
    const uint8_t *peer; /* in a buffer of the ring */
    uint32_t peer_bytes;
} gathered;

/* What has to go through Python. */
static void leave_run(hot_engine *e, const gathered *g, uint32_t first)
{
    hot_left *left = &e->left;
    uint32_t count = g->count - first;
    if (left->piece_count + count > MAX_PIECES) { /* as in a full queue */
        g->source->late += count;
        return;
    }
    memcpy(left->pieces + left->piece_count, e->run + first, count * sizeof *e->run);
    left->runs[left->run_count++] =
        (hot_run){g->source, g->peer, g->peer_bytes, left->piece_count, count, g->size};
    left->piece_count += count;
    e->udp_ring.busy = true;
}

static void flush(hot_engine *e, gathered *g)
{
    uint32_t done = 0;
    if (!g->count)
        return;
    hot_conversation *c = g->source->aside ? NULL : g->conversation;
    if (c && c->left_pass != e->left.passes)
        done = send_run(e, c, e->run, g->count, g->size);
    if (done < g->count) {
        leave_run(e, g, done);
        if (c)
            c->left_pass = e->left.passes;
    }
    g->count = 0;
}

static void gather(hot_engine *e, gathered *g, const uint8_t *data, uint32_t length)
{
    if (g->count && (g->closed || !length || length > g->size || g->count == MAX_PIECES / 2))
        flush(e, g);
    if (!g->count) {
        g->size = length;
        g->closed = !length;
    }
    g->closed |= length < g->size;
    e->run[g->count++] = (hot_piece){data, length};
}

/* Who sent message index: sockaddr, then where it was sent to, as Python names a peer.  It is written into the
 * memory of the ring, where the ancillary data was.  Returns its bytes. */
static uint32_t name_sender(ring *r, uint32_t index, const ancillary *told, const uint8_t **peer)
{
    uint8_t *at = r->controls[index];
    uint32_t name_bytes = r->messages[index].msg_hdr.msg_namelen;
    name_bytes = name_bytes > 28 ? 28 : name_bytes;
    memcpy(at, r->names[index], name_bytes);
    memcpy(at + name_bytes, told->source, told->source_bytes);
    *peer = at;
    return name_bytes + told->source_bytes;
}

static void *look_up(const table *t, const hot_source *s, const uint8_t *peer, uint32_t bytes)
{
    uint8_t key[KEY_BYTES];
    uint32_t length = owned_key(key, s, peer, bytes);
    return length ? table_get(t, key, length) : NULL;
}

/* Whose datagram a message of a listener is. */
static void follow_peer(hot_engine *e, gathered *g, uint32_t index, const ancillary *told)
{
    const uint8_t *peer;
    uint32_t bytes = name_sender(&e->udp_ring, index, told, &peer);
    if (g->peer && g->peer_bytes == bytes && !memcmp(g->peer, peer, bytes))
        return;
    flush(e, g);
    g->peer = peer;
    g->peer_bytes = bytes;
    g->conversation = look_up(&e->peers, g->source, peer, bytes);
}

/* Of a late read: keep[i] for messages of peers that do not fill the queue. */
static void shares(ring *r, uint32_t count, uint8_t *keep)
{
    uint64_t senders[MESSAGES];
    uint32_t amounts[MESSAGES];
    for (uint32_t i = 0; i < count; i++) {
        uint64_t sender = 0;
        uint32_t bytes = r->messages[i].msg_hdr.msg_namelen;
        for (uint32_t at = 0; at < bytes && at < sizeof r->names[i]; at++)
            sender = sender * 131 + r->names[i][at];
        ancillary told;
        read_ancillary(&r->messages[i].msg_hdr, &told);
        uint32_t length = r->messages[i].msg_len;
        senders[i] = sender >> 1;
        amounts[i] = told.segment && length ? (length + told.segment - 1) / told.segment : 1;
    }
    not_the_cause(senders, amounts, count, keep);
}

#define READ_BYTES (256u << 10) /* so little that it stays in the CPU's cache until it is sent */

/* Read messages; an error of an earlier send is counted, and it is read again. */
static uint32_t read_messages(hot_engine *e, hot_source *s, int64_t *waited)
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

/* One read of a socket.  Returns whether another one makes sense: all of this one was late. */
static bool read_source(hot_engine *e, hot_source *s)
{
    uint8_t keep[MESSAGES];
    ring *r = &e->udp_ring;
    int64_t waited;
    uint32_t count = read_messages(e, s, &waited);
    bool late = waited >= LATE, any = false;
    if (!count)
        return false;
    mark(e, s);
    if (late && waited < LOST)
        shares(r, count, keep);
    else
        memset(keep, !late, sizeof keep);
    gathered g = {.source = s, .conversation = s->conversation};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = r->messages[i].msg_len, at = 0;
        const uint8_t *data = ring_buffer(r, i);
        ancillary told;
        read_ancillary(&r->messages[i].msg_hdr, &told);
        uint32_t step = told.segment && told.segment < length ? told.segment : length;
        uint32_t datagrams = step ? (length + step - 1) / step : 1;
        if (!keep[i]) {
            s->late += datagrams;
            continue;
        }
        any = true;
        if (!s->conversation)
            follow_peer(e, &g, i, &told);
        s->received += datagrams;
        do {
            uint32_t size = step < length - at ? step : length - at;
            gather(e, &g, data + at, size);
            at += size;
        } while (at < length);
    }
    flush(e, &g);
    return late && !any;
}

void serve_source(hot_engine *e, hot_source *s)
{
    for (uint32_t reads = 0; reads < LATE_READS && !e->udp_ring.busy && !e->blocked; reads++)
        if (!read_source(e, s))
            break;
}

/* -- carriers */

/* A message of a carrier that C cannot take.  size: at which the kernel had merged it. */
static void leave_carried(hot_engine *e, hot_source *s, const uint8_t *peer, uint32_t peer_bytes, hot_piece piece,
                          uint32_t size)
{
    hot_left *left = &e->left;
    left->pieces[left->piece_count] = piece;
    left->runs[left->run_count++] = (hot_run){s, peer, peer_bytes, left->piece_count, piece.data ? 1 : 0, size};
    left->piece_count += 1;
    e->udp_ring.busy = true;
}

/* Of a late read: keep[i] for what may be control, and for flows whose senders do not fill the queue. */
static void useful_carried(ring *r, hot_flow *const *flows, const uint32_t *segments, uint32_t count, uint8_t *keep)
{
    uint64_t senders[MESSAGES];
    uint32_t amounts[MESSAGES];
    for (uint32_t i = 0; i < count; i++) {
        uint64_t sender = 0;
        for (uint32_t at = 4; at < r->messages[i].msg_hdr.msg_namelen && at < 24; at++) /* the address only */
            sender = sender * 131 + r->names[i][at];
        senders[i] = flows[i] ? sender >> 1 : STRANGER;
        amounts[i] = r->messages[i].msg_len;
    }
    not_the_cause(senders, amounts, count, keep);
    for (uint32_t i = 0; i < count; i++)
        keep[i] |= may_be_control(amounts[i], segments[i]);
}

/* One read of a carrier.  Returns whether another one makes sense: all of this one was late. */
static bool read_carrier(hot_engine *e, hot_source *s)
{
    uint8_t keep[MESSAGES];
    uint32_t segments[MESSAGES], peer_bytes[MESSAGES];
    const uint8_t *peers[MESSAGES];
    hot_flow *flows[MESSAGES];
    ring *r = &e->udp_ring;
    uint64_t refused = s->refused;
    int64_t waited;
    uint32_t count = read_messages(e, s, &waited);
    bool late = waited >= LATE, any = false;
    e->left.carrier_waited = waiting_waited(&s->waiting, e->now);
    for (uint32_t i = 0; i < count; i++) {
        ancillary told;
        read_ancillary(&r->messages[i].msg_hdr, &told);
        segments[i] = told.segment;
        peer_bytes[i] = name_sender(r, i, &told, &peers[i]);
        flows[i] = s->flow ? s->flow : look_up(&e->carried, s, peers[i], peer_bytes[i]);
    }
    if (late && waited < LOST)
        useful_carried(r, flows, segments, count, keep);
    else
        memset(keep, !late, sizeof keep);
    mark(e, s);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = r->messages[i].msg_len, taken = 0;
        uint32_t datagrams = segments[i] ? (length + segments[i] - 1) / segments[i] : 1;
        const uint8_t *data = ring_buffer(r, i);
        if (!keep[i]) {
            s->late += datagrams;
            continue;
        }
        any = true;
        s->received += datagrams;
        hot_flow *flow = flows[i];
        bool known = flow && length && flow->left_pass != e->left.passes;
        if (known && take_payload(e, flow, data, length, segments[i], &taken))
            continue;
        if (flow)
            flow->left_pass = e->left.passes;
        leave_carried(e, s, peers[i], peer_bytes[i], (hot_piece){data, length}, segments[i]);
    }
    deliver_now(e);
    e->opened_bytes = 0;
    if (s->refused != refused) /* Python has to know that the port is closed */
        leave_carried(e, s, NULL, 0, (hot_piece){NULL, 0}, 0);
    return late && !any;
}

void serve_carrier(hot_engine *e, hot_source *s)
{
    for (uint32_t reads = 0; reads < LATE_READS && !e->udp_ring.busy; reads++)
        if (!read_carrier(e, s))
            break;
}
