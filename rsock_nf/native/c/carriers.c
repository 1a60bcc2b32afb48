/* UDP carriers: what one read brings are payloads of flows.  Twin: sockets/carriers.py. */
#include "hot.h"

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
