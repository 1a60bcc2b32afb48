/* The way in: packet -> flow -> acknowledgement -> frames -> conversation.
 * Twin: Pump.from_link in core/pump/pump.py, Tap in link/linux/tap.py.
 */
#include "hot.h"

#include <linux/if_arp.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>

#ifndef ARPHRD_RAWIP
#define ARPHRD_RAWIP 519
#endif

hot_conversation *conversation_of(const hot_engine *e, const hot_group *group, uint16_t number)
{
    uint8_t key[KEY_BYTES];
    return table_get(&e->conversations, key, owned_key(key, group, &number, sizeof number));
}

/* Take an ACK.  It counts only up to the highest number that we sent.  Twin: PumpFlow.acked. */
static void acked(hot_flow *flow, uint32_t ack, uint32_t window)
{
    uint32_t ahead = ack - flow->highest_ack;
    if (ahead > flow->next_seq - flow->highest_ack)
        return;
    flow->highest_ack = ack;
    flow->window = window << flow->scale;
    if (flow->windowed)
        flow->bulk_window = (uint64_t)flow->window * 3 / 4;
    if (ahead)
        flow->stalled = 0;
}

static bool in_window(const hot_flow *flow, uint32_t seq)
{
    return seq - flow->received + flow->receive_window < 2 * flow->receive_window;
}

/* Deliver the frames that the replay window accepts.  Returns the offset behind the last of them; 0 = none was. */
static uint32_t take_frames(hot_engine *e, hot_flow *flow, uint32_t count)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < count; i++) {
        const data_frame *f = &e->frames[i];
        if (flow->cipher != CIPHER_NONE && !hot_accept(&flow->replay, f->counter)) {
            flow->replayed++;
            continue;
        }
        flow->received_frames++;
        f->conversation->received_datagrams++;
        f->conversation->received_bytes += f->length;
        f->conversation->kind = KIND_DATA; /* the peer knows it: plain data frames from now on */
        deliver(e, f->conversation, f->data, f->length);
        taken = f->end;
    }
    return taken;
}

/* The frames of one payload.  false = left to Python.  taken: the offset behind the last frame that counts; 0 = none
 * counts. */
bool take_payload(hot_engine *e, hot_flow *flow, const uint8_t *payload, uint32_t size, uint32_t segment_size,
                  uint32_t *taken)
{
    uint32_t count = 0;
    if (flow->cipher == CIPHER_NONE) {
        count = plain_open(e, flow, payload, size);
    } else if (flow->cipher != CIPHER_UNKNOWN) {
        if (OPENED_BYTES - e->opened_bytes < size) { /* what was opened before has to go first */
            deliver_now(e);
            e->opened_bytes = 0;
        }
        count = sealed_open(e, flow, payload, size, segment_size);
        e->opened_bytes += count ? size : 0;
    }
    if (count) {
        *taken = take_frames(e, flow, count);
        flow->received_bytes += *taken;
    }
    return count;
}

/* The payload of a segment.  Only a frame that counts moves the numbers of the flow. */
static bool take_segment(hot_engine *e, hot_flow *flow, const uint8_t *payload, uint32_t size, uint32_t segment_size,
                         const uint8_t *tcp)
{
    uint32_t taken = 0;
    if (!take_payload(e, flow, payload, size, segment_size, &taken))
        return false;
    if (taken) {
        uint32_t end = get32(tcp + 4) + taken;
        if (end - flow->received < 0x80000000u)
            flow->received = end;
        flow->unacknowledged += taken;
        acked(flow, get32(tcp + 8), get16(tcp + 14));
        owe(e, flow);
    }
    return true;
}

/* A segment of a known flow.  total: the end of the IP packet; tcp: where TCP begins.  false = left to Python. */
static bool take_known(hot_engine *e, hot_flow *flow, const uint8_t *ip, uint32_t total, uint32_t tcp,
                       const struct virtio_net_hdr *vnet)
{
    const uint8_t *t = ip + tcp;
    uint32_t start = tcp + (uint32_t)(t[12] >> 4) * 4;
    if ((t[13] & (FIN | SYN | RST | ACK)) != ACK || start < tcp + 20 || start > total)
        return false;
    if (!(vnet->flags & 3) && !checksums_valid(ip, total, tcp))
        return false;
    if (!in_window(flow, get32(t + 4)))
        return false;
    if (total == start) {
        acked(flow, get32(t + 8), get16(t + 14));
        return true;
    }
    return take_segment(e, flow, ip + start, total - start, vnet->gso_size, t);
}

/* The flow that an IP packet says it belongs to.  NULL = none that we know. */
static hot_flow *flow_of(const hot_engine *e, const uint8_t *ip, uint32_t length)
{
    if (length >= 40 && ip[0] == 0x45)
        return table_get(&e->flows, ip + 12, 12);
    return length >= 60 && ip[0] >> 4 == 6 ? table_get(&e->flows, ip + 8, 36) : NULL;
}

/* An IP packet.  false = left to Python: nothing of it was counted. */
static bool take_ip(hot_engine *e, const uint8_t *ip, uint32_t length, const struct virtio_net_hdr *vnet)
{
    uint32_t tcp, total;
    hot_flow *flow = flow_of(e, ip, length);
    if (!flow)
        return false;
    if (ip[0] == 0x45) {
        tcp = 20;
        total = get16(ip + 2);
        if (ip[9] != IPPROTO_TCP || get16(ip + 6) & 0x3FFF)
            return false;
    } else {
        tcp = 40;
        total = get16(ip + 4) + 40u;
        if (ip[6] != IPPROTO_TCP)
            return false;
    }
    if (total <= length && flow->left_pass != e->left.passes && take_known(e, flow, ip, total, tcp, vnet))
        return true;
    flow->left_pass = e->left.passes;
    return false;
}

/* Where the IP packet begins in what a packet socket gave; 0 = no device that we know. */
static uint32_t ip_start(const struct sockaddr_ll *from)
{
    switch (from->sll_hatype) {
    case ARPHRD_ETHER:
    case ARPHRD_LOOPBACK:
        return VNET_BYTES + ETHERNET_BYTES;
    case ARPHRD_PPP:
    case ARPHRD_RAWIP:
    case 0xFFFE: /* ARPHRD_NONE */
        return VNET_BYTES;
    default:
        return 0;
    }
}

/* A message of the tap: virtio_net_hdr, link header, IP packet.  false = left to Python. */
static bool take_message(hot_engine *e, const uint8_t *data, uint32_t length, const uint8_t *name)
{
    struct virtio_net_hdr vnet;
    struct sockaddr_ll from;
    memcpy(&from, name, sizeof from);
    uint32_t start = ip_start(&from);
    if (!start || length < start + 40)
        return false;
    memcpy(&vnet, data, VNET_BYTES);
    return take_ip(e, data + start, length - start, &vnet);
}

int hot_take_packet(hot_engine *e, uint8_t *data, uint32_t length, const uint8_t *name)
{
    bool taken = take_message(e, data, length, name);
    deliver_now(e);
    e->opened_bytes = 0;
    return taken;
}

/* A message of a carrier of this flow. */
int hot_take_carried(hot_engine *e, hot_flow *flow, const uint8_t *data, uint32_t length, uint32_t segment_size)
{
    uint32_t taken = 0;
    bool done = take_payload(e, flow, data, length, segment_size, &taken);
    deliver_now(e);
    e->opened_bytes = 0;
    return done;
}

static void leave_packet(hot_engine *e, const uint8_t *data, uint32_t length, const uint8_t *name)
{
    e->left.packets[e->left.packet_count++] = (hot_packet){data, length, name};
    e->tap_ring.busy = true;
}

/* Who sent a message of the tap: the address, as a number. */
static uint64_t sender_of(const hot_engine *e, const uint8_t *ip, uint32_t length)
{
    uint64_t a, b;
    if (!flow_of(e, ip, length))
        return STRANGER;
    if (ip[0] >> 4 == 4)
        return get32(ip + 12);
    memcpy(&a, ip + 8, 8);
    memcpy(&b, ip + 16, 8);
    return (a * 31 + b) >> 1;
}

static bool is_small(const uint8_t *ip, uint32_t length, uint32_t segment_size)
{
    uint32_t headers = (ip[0] >> 4 == 4 ? (ip[0] & 0x0Fu) * 4 : 40u) + 20u;
    return may_be_control(length > headers ? length - headers : 0, segment_size);
}

/* Of a late read: keep[i] for what may be control, and for flows whose senders do not fill the queue. */
static void useful(hot_engine *e, uint32_t count, uint8_t *keep)
{
    uint64_t senders[MESSAGES];
    uint32_t amounts[MESSAGES];
    ring *r = &e->tap_ring;
    for (uint32_t i = 0; i < count; i++) {
        struct sockaddr_ll from;
        memcpy(&from, r->names[i], sizeof from);
        uint32_t start = ip_start(&from), length = r->messages[i].msg_len;
        start = start && length > start ? start : 0;
        senders[i] = sender_of(e, ring_buffer(r, i) + start, length - start);
        amounts[i] = length - start;
    }
    uint32_t room = not_the_cause(senders, amounts, count, keep);
    for (uint32_t i = 0; i < count; i++) {
        struct virtio_net_hdr vnet;
        uint32_t length = r->messages[i].msg_len;
        memcpy(&vnet, ring_buffer(r, i), VNET_BYTES);
        bool small = length > amounts[i] && amounts[i] &&
                     is_small(ring_buffer(r, i) + (length - amounts[i]), amounts[i], vnet.gso_size);
        if (senders[i] != STRANGER) {
            keep[i] |= small;
        } else if (small && room) {
            keep[i] = 1;
            room--;
        }
    }
}

/* One read of the tap.  Returns whether another one makes sense: all of this one was late. */
static bool read_tap(hot_engine *e)
{
    uint8_t keep[MESSAGES];
    ring *r = &e->tap_ring;
    uint32_t limit = waiting_limit(&e->tap_waiting, e->now);
    int count = ring_read(r, e->tap, limit);
    if (count <= 0) {
        waiting_empty(&e->tap_waiting, e->now);
        return false;
    }
    int64_t waited = waiting_read(&e->tap_waiting, e->tap, e->now, (uint32_t)count >= limit);
    bool late = waited >= LATE, any = false;
    if (late && waited < LOST)
        useful(e, (uint32_t)count, keep);
    else
        memset(keep, !late, sizeof keep);
    for (uint32_t i = 0; i < (uint32_t)count; i++) {
        uint32_t length = r->messages[i].msg_len;
        uint8_t *data = ring_buffer(r, i);
        if (r->messages[i].msg_hdr.msg_flags & MSG_TRUNC || length < VNET_BYTES) {
            e->left.link.truncated++;
            continue;
        }
        if (!keep[i]) {
            e->left.link.late++;
            continue;
        }
        any = true;
        if (e->tap_aside || !take_message(e, data, length, r->names[i])) {
            leave_packet(e, data, length, r->names[i]);
            continue;
        }
        struct sockaddr_ll from;
        memcpy(&from, r->names[i], sizeof from);
        e->left.link.received_packets++;
        e->left.link.received_bytes += length - ip_start(&from);
    }
    deliver_now(e);
    e->opened_bytes = 0;
    return late && !any;
}

/* What has arrived comes before what is to leave: if it has waited, there are several reads. */
void serve_tap(hot_engine *e)
{
    for (uint32_t late = 0, reads = 0; late < LATE_READS && reads < ROUNDS && !e->tap_ring.busy;) {
        if (read_tap(e))
            late++;
        else if (e->tap_waiting.last_waited < BEHIND)
            break;
        else
            reads++;
    }
    e->left.tap_waited = waiting_waited(&e->tap_waiting, e->now);
}
