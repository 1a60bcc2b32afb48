#include "checks.h"

#include <linux/virtio_net.h>
#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static hot_flow before[FLOWS];
static hot_conversation talks[CONVERSATIONS];

void checks_before(void)
{
    for (uint32_t i = 0; i < FLOWS; i++)
        if (w.flows[i].c)
            before[i] = *w.flows[i].c;
    for (uint32_t i = 0; i < CONVERSATIONS; i++)
        if (w.conversations[i].c)
            talks[i] = *w.conversations[i].c;
}

/* What only Python changes. */
static void check_constant(const hot_flow *a, const hot_flow *b)
{
    REQUIRE(a->group == b->group && a->cipher == b->cipher && a->keys == b->keys);
    REQUIRE(a->token_out == b->token_out && a->token_in == b->token_in);
    REQUIRE(a->scale == b->scale && a->receive_window == b->receive_window && a->windowed == b->windowed);
    REQUIRE(a->max_payload == b->max_payload && a->burst_bytes == b->burst_bytes);
    REQUIRE(a->header_bytes == b->header_bytes && !memcmp(a->headers, b->headers, sizeof a->headers));
    REQUIRE(a->way.fd == b->way.fd && a->way.revision == b->way.revision && a->way.mtu == b->way.mtu);
    REQUIRE(a->bad_checksums == b->bad_checksums && a->bad_frames == b->bad_frames);
    REQUIRE(a->out_of_window == b->out_of_window); /* whole packets are left to Python, which counts them */
}

static void check_sending(const hot_flow *a, const hot_flow *b)
{
    uint32_t acknowledged = b->highest_ack - a->highest_ack;
    REQUIRE(b->next_seq - a->next_seq == (b->udp ? 0 : (uint32_t)(b->sent_bytes - a->sent_bytes)));
    REQUIRE(acknowledged <= b->next_seq - a->highest_ack);
    REQUIRE(b->counter - a->counter == b->sent_frames - a->sent_frames);
    REQUIRE(b->sent >= a->sent && b->sent_frames >= a->sent_frames);
    if (!b->windowed) {
        REQUIRE(b->bulk_window == a->bulk_window);
    } else if (b->bulk_window != a->bulk_window) {
        REQUIRE(b->window <= 65535u << b->scale && b->bulk_window == (uint64_t)b->window * 3 / 4);
    }
}

static void check_receiving(const hot_flow *a, const hot_flow *b)
{
    uint64_t bytes = b->received_bytes - a->received_bytes;
    uint32_t moved = b->received - a->received;
    REQUIRE(b->received_bytes >= a->received_bytes && b->received_frames >= a->received_frames);
    REQUIRE(b->replayed >= a->replayed && b->replay.next >= a->replay.next);
    /* A segment begins at most a window ahead, and each one that was taken brought bytes. */
    REQUIRE(bytes && !b->udp ? moved <= (uint64_t)b->receive_window * 64 + bytes : !moved);
    REQUIRE((b->received_frames == a->received_frames) == !bytes);
    if (b->cipher > CIPHER_NONE) {
        REQUIRE(b->received_frames - a->received_frames <= b->replay.next);
    } else {
        REQUIRE(b->replayed == a->replayed && b->replay.next == a->replay.next);
    }
    if (b->cipher == CIPHER_UNKNOWN)
        REQUIRE(!bytes && b->sent_frames == a->sent_frames);
}

void checks_after(void)
{
    for (uint32_t i = 0; i < FLOWS; i++) {
        const hot_flow *now = w.flows[i].c;
        if (!now)
            continue;
        check_constant(&before[i], now);
        check_sending(&before[i], now);
        check_receiving(&before[i], now);
    }
    for (uint32_t i = 0; i < CONVERSATIONS; i++) {
        const hot_conversation *now = w.conversations[i].c, *was = &talks[i];
        if (!now)
            continue;
        REQUIRE(now->group == was->group && now->number == was->number && now->out == was->out);
        REQUIRE(now->kind == was->kind || now->kind == KIND_DATA);
        REQUIRE(now->sent_datagrams >= was->sent_datagrams && now->received_datagrams >= was->received_datagrams);
        REQUIRE(now->sent_bytes - was->sent_bytes <= (now->sent_datagrams - was->sent_datagrams) * MAX_IP_BYTES);
    }
}

/* -- what leaves */

/* Frames of cipher none are whole, and are data. */
static void check_frames(const uint8_t *payload, uint32_t size)
{
    for (uint32_t at = 0; at < size;) {
        REQUIRE(size - at >= FRAME_HEADER && payload[at] >> 6 == KIND_DATA);
        REQUIRE(get32(payload + at + 4) == 0x11111111);
        at += FRAME_HEADER + (get16(payload + at) & 0x3FFF);
        REQUIRE(at <= size);
    }
}

/* The flow with these ports that takes the largest segments: two may have the same. */
static const hot_flow *flow_of(const uint8_t *tcp)
{
    const hot_flow *found = NULL;
    for (uint32_t i = 0; i < FLOWS; i++) {
        const hot_flow *flow = w.flows[i].c;
        if (flow && !flow->udp && get16(tcp + 2) == 5000 + i % 4 && (!found || flow->max_payload > found->max_payload))
            found = flow;
    }
    return found;
}

static void check_ip(const uint8_t *ip, uint32_t bytes, uint32_t segment_size)
{
    uint32_t headers = ip[0] == 0x45 ? 40 : 60;
    const uint8_t *tcp = ip + headers - 20;
    REQUIRE(bytes >= headers && bytes <= MAX_IP_BYTES);
    if (headers == 40) {
        REQUIRE(get16(ip + 2) == bytes && checksum_add(ip, 20) == 0xFFFF && ip[9] == IPPROTO_TCP);
    } else {
        REQUIRE(ip[0] == 0x60 && get16(ip + 4) + 40u == bytes && ip[6] == IPPROTO_TCP);
    }
    REQUIRE(tcp[12] == 0x50 && (tcp[13] == ACK || tcp[13] == (ACK | PSH)));
    const hot_flow *flow = flow_of(tcp);
    REQUIRE(flow);
    uint32_t payload = bytes - headers;
    REQUIRE((segment_size ? segment_size : payload) <= flow->max_payload);
    REQUIRE(!segment_size || segment_size < payload);
    if (flow->cipher == CIPHER_NONE)
        check_frames(ip + headers, payload);
}

void check_packet(const uint8_t *data, size_t bytes)
{
    struct virtio_net_hdr vnet;
    REQUIRE(bytes >= VNET_BYTES + 40);
    memcpy(&vnet, data, VNET_BYTES);
    REQUIRE(vnet.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM && vnet.csum_offset == 16);
    REQUIRE(vnet.hdr_len == vnet.csum_start + 20 && VNET_BYTES + vnet.hdr_len <= bytes);
    uint32_t link = vnet.csum_start == 20 || vnet.csum_start == 40 ? 0 : ETHERNET_BYTES;
    const uint8_t *ip = data + VNET_BYTES + link;
    REQUIRE(ip[0] == (vnet.csum_start - link == 20 ? 0x45 : 0x60));
    REQUIRE(vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE ? !vnet.gso_size : vnet.gso_size > 0);
    check_ip(ip, (uint32_t)(bytes - VNET_BYTES - link), vnet.gso_size);
}

void check_datagrams(const struct msghdr *told)
{
    size_t bytes = 0, count = told->msg_iovlen;
    uint16_t segment = 0;
    REQUIRE(count >= 1 && count <= UDP_SEGMENTS);
    struct msghdr copy = *told;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&copy); c; c = CMSG_NXTHDR(&copy, c)) {
        REQUIRE(c->cmsg_len >= CMSG_LEN(2));
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_SEGMENT)
            memcpy(&segment, CMSG_DATA(c), sizeof segment);
    }
    REQUIRE(count == 1 || segment);
    for (size_t i = 0; i < count; i++) {
        size_t length = told->msg_iov[i].iov_len;
        bytes += length;
        if (count > 1) /* a burst of a UDP flow is one piece */
            REQUIRE(i + 1 < count ? length == segment : length <= segment);
        REQUIRE(count == 1 || length);
    }
    REQUIRE(bytes <= UDP_BYTES && (!segment || bytes <= (size_t)UDP_SEGMENTS * segment));
}

static volatile uint8_t sink;

static void read_all(const uint8_t *data, size_t bytes)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum ^= data[i];
    sink = sum;
}

void check_left(void)
{
    const hot_left *left = hot_left_of(w.engine);
    REQUIRE(left->packet_count <= MESSAGES && left->run_count <= MAX_PIECES);
    REQUIRE(left->piece_count <= MAX_PIECES && left->burst_count <= MAX_BURSTS);
    for (uint32_t i = 0; i < left->packet_count; i++) {
        read_all(left->packets[i].data, left->packets[i].length);
        read_all(left->packets[i].name, NAME_BYTES);
    }
    for (uint32_t i = 0; i < left->run_count; i++) {
        const hot_run *run = &left->runs[i];
        REQUIRE(run->first + run->count <= left->piece_count && run->source);
        REQUIRE(run->source->carrier ? run->count <= 1 : run->count > 0);
        read_all(run->peer, run->peer_bytes);
        for (uint32_t at = run->first; at < run->first + run->count; at++) {
            bool last = at == run->first + run->count - 1;
            REQUIRE(run->source->carrier || left->pieces[at].length == run->size ||
                    (last && left->pieces[at].length < run->size));
            read_all(left->pieces[at].data, left->pieces[at].length);
        }
    }
    for (uint32_t i = 0; i < left->burst_count; i++) {
        const hot_burst *burst = &left->bursts[i];
        if (burst->flow->udp) {
            REQUIRE(!burst->header_bytes && burst->segment_size <= burst->payload_bytes);
            if (burst->flow->cipher == CIPHER_NONE)
                check_frames(burst->data, burst->payload_bytes);
            continue;
        }
        REQUIRE(burst->header_bytes == 40 || burst->header_bytes == 60);
        check_ip(burst->data, burst->header_bytes + burst->payload_bytes,
                 burst->segment_size < burst->payload_bytes ? burst->segment_size : 0);
    }
}
