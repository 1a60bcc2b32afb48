/* The sockets of applications and targets: what one read brings becomes runs.  Twin: sockets/datagrams.py. */
#include "hot.h"

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
