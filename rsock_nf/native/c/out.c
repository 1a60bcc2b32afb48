/* The way out: datagrams -> a usable flow with credit -> frames of equal size, of one conversation or of several -> one
 * burst.  It leaves when another has to begin, when something else has to leave, and at the end of a round.
 * Twin: Pump.send in core/pump/pump.py, Sender.send in link/linux/sender.py.
 */
#include "hot.h"

#include <linux/virtio_net.h>

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t in_flight(const hot_flow *flow) { return flow->next_seq - flow->highest_ack; }

static bool has_credit(const hot_flow *flow, uint32_t bytes)
{
    return flow->bulk_window >= (uint64_t)in_flight(flow) + bytes;
}

/* A random number to spread load, not to keep secrets: a linear congruential generator (Knuth's MMIX). */
static uint32_t next_random(hot_engine *e)
{
    e->random = e->random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(e->random >> 33);
}

/* A usable flow that has credit and room for so many bytes.  NULL = the one chosen has not: Python chooses again, looks
 * further, and counts. */
static hot_flow *pick(hot_engine *e, hot_conversation *c, uint32_t bytes)
{
    hot_group *group = c->group;
    hot_flow *flow = NULL;
    uint64_t random = e->random;
    if (e->pin)
        for (uint32_t i = 0; i < group->usable_count; i++)
            if (group->usable[i] == c->pinned)
                flow = c->pinned;
    if (!flow)
        flow = group->usable[next_random(e) % group->usable_count];
    if (e->pin)
        c->pinned = flow;
    if (has_credit(flow, bytes) && bytes <= least(flow->max_payload, MAX_PAYLOAD))
        return flow;
    if (!e->pin) /* what is pinned stays so: Python does not choose again */
        e->random = random;
    return NULL;
}

/* Whether one more burst can be left to Python. */
static bool has_room(const hot_engine *e)
{
    return e->left.burst_count < MAX_BURSTS && e->unsent_bytes + MAX_IP_BYTES < UNSENT_BYTES;
}

/* Keep a burst for Python, which sends it: the kernel did not take it, or there is no way. */
static void leave_burst(hot_engine *e, hot_flow *flow, const uint8_t *data, uint32_t payload_bytes,
                        uint32_t segment_size)
{
    uint32_t bytes = flow->header_bytes + payload_bytes;
    if (!has_room(e))
        return; /* who sends looks before: there is one burst at most */
    uint8_t *kept = e->unsent + e->unsent_bytes;
    memcpy(kept, data, bytes);
    e->unsent_bytes += bytes;
    e->left.bursts[e->left.burst_count++] = (hot_burst){flow, kept, flow->header_bytes, payload_bytes, segment_size};
}

/* One send(2) of a burst; false = Python has to send it (errno 0: it is too large).  message: where the virtio_net_hdr
 * begins. */
static bool emit(const hot_way *way, uint8_t *message, uint32_t header_bytes, uint32_t payload_bytes,
                 uint32_t segment_size)
{
    uint32_t total = header_bytes + payload_bytes;
    bool cut = segment_size && segment_size < payload_bytes;
    errno = 0;
    if (cut ? header_bytes + segment_size > way->mtu || total > way->max_burst : total > way->mtu)
        return false;
    struct virtio_net_hdr vnet = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .hdr_len = (uint16_t)(way->link_bytes + header_bytes),
        .csum_start = (uint16_t)(way->link_bytes + header_bytes - 20),
        .csum_offset = 16,
    };
    if (cut) {
        vnet.gso_type = header_bytes == 40 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
        vnet.gso_size = (uint16_t)segment_size;
    }
    memcpy(message, &vnet, VNET_BYTES);
    memcpy(message + VNET_BYTES, way->link_header, way->link_bytes);
    const struct sockaddr *name = way->name_bytes ? (const void *)way->name : NULL;
    size_t bytes = VNET_BYTES + way->link_bytes + total;
    return sendto(way->fd, message, bytes, MSG_DONTWAIT, name, way->name_bytes) == (ssize_t)bytes;
}

/* A segment or a burst of a flow leaves.  packet: headers and payload, with room in front. */
static void transmit(hot_engine *e, hot_flow *flow, uint8_t *packet, uint32_t payload_bytes, uint32_t segment_size)
{
    const hot_way *way = &flow->way;
    bool known = way->fd >= 0 && way->revision == e->way_revision && !e->blocked;
    uint8_t *message = packet - VNET_BYTES - (known ? way->link_bytes : 0);
    if (!known || !emit(way, message, flow->header_bytes, payload_bytes, segment_size)) {
        e->blocked |= known && (errno == EAGAIN || errno == ENOBUFS);
        leave_burst(e, flow, packet, payload_bytes, segment_size);
        return;
    }
    hot_counters *counters = &e->left.link;
    counters->sent_packets++;
    counters->sent_segments += segment_size ? (payload_bytes + segment_size - 1) / segment_size : 1;
    counters->sent_bytes += flow->header_bytes + payload_bytes;
}

/* A burst of a UDP flow leaves: at most 64 datagrams in each sendmsg(2).  What the kernel does not take is Python's. */
static void transmit_udp(hot_engine *e, hot_flow *flow, uint8_t *payload, uint32_t bytes, uint32_t segment_size)
{
    uint32_t at_once = segment_size ? least(UDP_SEGMENTS, UDP_BYTES / segment_size) * segment_size : bytes;
    for (uint32_t at = 0; at < bytes;) {
        uint32_t size = least(at_once, bytes - at);
        struct iovec piece = {payload + at, size};
        bool cut = segment_size && segment_size < size;
        int failure = EAGAIN;
        if (flow->carrier && !e->blocked)
            failure = send_datagrams(flow->carrier, &flow->destination, &piece, 1, cut ? segment_size : 0);
        if (failure == ECONNREFUSED) { /* what ICMP said of an earlier one */
            mark(e, flow->carrier);
            flow->carrier->refused++;
        }
        if (failure) {
            e->blocked |= flow->carrier && failure == EAGAIN;
            leave_burst(e, flow, payload + at, bytes - at, bytes - at > segment_size ? segment_size : 0);
            return;
        }
        mark(e, flow->carrier);
        flow->carrier->sent += segment_size ? (size + segment_size - 1) / segment_size : 1;
        at += size;
    }
}

/* Give a segment its headers and send it.  The payload stands where it belongs in e->burst. */
static void segment(hot_engine *e, hot_flow *flow, uint8_t *packet, uint32_t payload_bytes, uint32_t segment_size,
                    uint8_t flags)
{
    uint32_t segments = segment_size ? (payload_bytes + segment_size - 1) / segment_size : 1;
    flow->sent++;
    flow->sent_bytes += payload_bytes;
    if (flow->udp) {
        transmit_udp(e, flow, packet, payload_bytes, segment_size);
        return;
    }
    build_headers(flow, payload_bytes, segments, flags, packet);
    flow->next_seq += payload_bytes;
    flow->unacknowledged = 0;
    transmit(e, flow, packet, payload_bytes, segment_size);
}

static uint8_t *packet_in(hot_engine *e) { return e->burst + 64; } /* room for virtio_net_hdr and link header */

/* Whether a frame of c may follow in the burst that is being built. */
static bool continues(const hot_engine *e, const hot_conversation *c, uint32_t step)
{
    const outgoing *o = &e->outgoing;
    return o->flow && o->flow->group == c->group && o->step == step && !o->closed && o->count < o->limit &&
           (!e->pin || c->pinned == o->flow) && has_credit(o->flow, o->bytes + step);
}

/* Begin a burst for frames of c.  Returns false = they are Python's. */
static bool begin_burst(hot_engine *e, hot_conversation *c, uint32_t step)
{
    hot_flow *flow = has_room(e) ? pick(e, c, step) : NULL;
    if (!flow || flow->cipher == CIPHER_UNKNOWN)
        return false;
    uint32_t limit = e->per_datagram ? 1 : least(least(flow->burst_bytes, MAX_PAYLOAD) / step, MAX_FRAMES);
    e->outgoing = (outgoing){.flow = flow, .step = step, .limit = limit ? limit : 1};
    return true;
}

/* The burst that is being built leaves. */
void flush_burst(hot_engine *e)
{
    outgoing *o = &e->outgoing;
    if (!o->flow)
        return;
    hot_flow *flow = o->flow;
    o->flow = NULL;
    if (o->count)
        segment(e, flow, packet_in(e), o->bytes, o->count > 1 ? o->step : 0, PSH | ACK);
}

/* Frames for datagrams of one size, the last may be shorter.  They join the burst that is being built, or begin another
 * one.  Returns how many were taken: the others are Python's. */
uint32_t send_run(hot_engine *e, hot_conversation *c, const hot_piece *pieces, uint32_t count, uint32_t size)
{
    hot_group *group = c->group;
    outgoing *o = &e->outgoing;
    uint32_t start = 0;
    if (c->kind != KIND_DATA || !group->usable_count || group->usable[0]->cipher == CIPHER_UNKNOWN)
        return 0;
    uint32_t step = size + FRAME_HEADER + (group->usable[0]->cipher == CIPHER_NONE ? 0 : FRAME_TAG); /* of a frame */
    while (start < count) {
        if (!continues(e, c, step)) {
            flush_burst(e);
            if (!begin_burst(e, c, step))
                break;
        }
        hot_flow *flow = o->flow;
        uint64_t credit = (flow->bulk_window - in_flight(flow) - o->bytes) / step;
        uint32_t n = least(o->limit - o->count, count - start);
        n = credit < n ? (uint32_t)credit : n;
        uint8_t *at = packet_in(e) + flow->header_bytes + o->bytes;
        uint32_t bytes = flow->cipher == CIPHER_NONE ? plain_pack(flow, c->number, pieces + start, n, at)
                                                     : sealed_pack(flow, c->number, pieces + start, n, at);
        if (!bytes)
            break;
        flow->counter += n;
        flow->sent_frames += n;
        o->bytes += bytes;
        o->count += n;
        start += n;
        o->closed = pieces[start - 1].length < size;
    }
    if (start) {
        c->sent_datagrams += start;
        c->sent_bytes += (uint64_t)size * (start - 1) + pieces[start - 1].length;
    }
    return start;
}

uint32_t hot_send_run(hot_engine *e, hot_conversation *c, const hot_piece *pieces, uint32_t count, uint32_t size)
{
    return send_run(e, c, pieces, count, size);
}

void hot_flush(hot_engine *e) { flush_burst(e); }

/* The state of the random choice of flows; next becomes the new one, unless it is 0. */
uint64_t hot_random(hot_engine *e, uint64_t next)
{
    if (next)
        e->random = next;
    return e->random;
}

void acknowledge(hot_engine *e, hot_flow *flow)
{
    flush_burst(e);
    segment(e, flow, packet_in(e), 0, 0, ACK);
}

#define ACK_DELAY 20000000ll

/* The flow has received bytes that no segment has acknowledged yet.  A sixteenth of the window is acknowledged at once.
 * Twin: Pump.take_unacknowledged, and Endpoint.receive_packets. */
void owe(hot_engine *e, hot_flow *flow)
{
    if (flow->unacknowledged >= flow->receive_window >> 4) {
        acknowledge(e, flow);
        return;
    }
    if (flow->owes)
        return;
    if (!e->owing)
        e->acknowledge_at = e->now + ACK_DELAY;
    flow->owes = 1;
    flow->owes_next = e->owing;
    e->owing = flow;
}

/* All that is owed, when it is due. */
void acknowledge_due(hot_engine *e)
{
    while (e->owing && has_room(e)) {
        hot_flow *flow = e->owing;
        e->owing = flow->owes_next;
        flow->owes = 0;
        if (flow->unacknowledged)
            acknowledge(e, flow);
    }
}

void hot_acknowledge(hot_engine *e) { acknowledge_due(e); }
