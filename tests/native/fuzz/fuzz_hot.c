/* The fuzzer's entry: its input is a sequence of operations on one engine.
 *
 * A byte chooses the operation, what follows are its arguments; after the end of the input they are 0.  Packets come
 * in as the kernel gives them: built for a flow that is there, then spoilt; or any bytes.  Datagrams come in by
 * sockets, or as a run.  Between them Python's verbs change the tables.
 */
#include "checks.h"

#include <linux/if_arp.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <netinet/udp.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { OPERATIONS = 300, BATCHES = 4 };

static const uint8_t *input;
static size_t input_bytes;

static uint8_t take8(void)
{
    if (!input_bytes)
        return 0;
    input_bytes--;
    return *input++;
}

static uint16_t take16(void)
{
    uint32_t high = take8();
    return (uint16_t)(high << 8 | take8());
}

static uint32_t take32(void)
{
    uint32_t high = take16();
    return high << 16 | take16();
}

/* A length: mostly like a datagram's, sometimes any. */
static uint32_t take_length(void)
{
    uint8_t kind = take8();
    return kind < 200 ? kind * 8u : kind < 250 ? take16() % 1500u : take16() % 65508u;
}

static uint8_t filler[MAX_IP_BYTES];

/* -- packets */

typedef struct {
    uint8_t *data;
    uint32_t length;
    struct sockaddr_ll from;
} packet;

/* How many bytes of a packet are spoilt: mostly none. */
static uint32_t take_spoilt(void)
{
    uint8_t given = take8();
    return given < 192 ? 0 : given % 4;
}

/* The number of a conversation of this group, or any. */
static uint16_t take_number(const hot_group *group)
{
    uint8_t given = take8();
    const hot_conversation *c = w.conversations[given % CONVERSATIONS].c;
    for (uint32_t i = 0; given < 224 && i < CONVERSATIONS && (!c || c->group != group || !c->out); i++)
        c = w.conversations[i].c;
    return c ? c->number : given;
}

/* Frames for a flow, as its other end packs them: batches of equal size.  Returns their bytes. */
static uint32_t pack_frames(fuzz_flow *f, uint8_t *out, uint32_t room, uint32_t *step)
{
    hot_flow *mirror = &f->mirror;
    uint32_t bytes = 0, batches = take8() % BATCHES + 1u, overhead = mirror->cipher <= CIPHER_NONE ? 8 : 24;
    uint16_t number = take_number(f->c->group);
    for (uint32_t i = 0; i < batches; i++) {
        hot_piece pieces[64];
        uint32_t size = take_length() & 0x3FFF, count = take8() % 64u + 1u;
        number = take8() < 192 ? number : take_number(f->c->group);
        while (count && count * (size + overhead) > room - bytes)
            count--;
        for (uint32_t at = 0; at < count; at++)
            pieces[at] = (hot_piece){filler, size};
        if (!count)
            break;
        pieces[count - 1].length = size ? size - take8() % size : 0;
        if (take8() >= 192) /* a counter that may have been seen */
            mirror->counter = take8() & 1 ? take32() & 0x7FFFFFFF : take16();
        uint32_t made = mirror->cipher <= CIPHER_NONE ? plain_pack(mirror, number, pieces, count, out + bytes)
                                                      : sealed_pack(mirror, number, pieces, count, out + bytes);
        mirror->counter = (mirror->counter + count) & 0x7FFFFFFF;
        *step = i ? *step : size + overhead;
        bytes += made;
    }
    return bytes;
}

/* The headers of a packet from the other end of a flow. */
static uint8_t *write_headers(const hot_flow *flow, uint8_t *ip, uint32_t payload_bytes)
{
    uint32_t headers = flow->header_bytes, address = headers == 40 ? 4 : 16, at = headers == 40 ? 12 : 8;
    uint8_t *tcp = ip + headers - 20, given = take8(), mode = given < 128 ? given & 40 : given;
    memcpy(ip, flow->headers, headers);
    memcpy(ip + at, flow->headers + at + address, address);
    memcpy(ip + at + address, flow->headers + at, address);
    memcpy(tcp, flow->headers + headers - 18, 2);
    memcpy(tcp + 2, flow->headers + headers - 20, 2);
    if (headers == 40) {
        put16(ip + 2, headers + payload_bytes);
        put16(ip + 10, 0);
        put16(ip + 10, ~checksum_add(ip, 20) & 0xFFFF);
    } else {
        put16(ip + 4, headers - 40 + payload_bytes);
    }
    put32(tcp + 4, mode & 1 ? flow->received + take16() - 32768u : mode & 2 ? take32() : flow->received);
    put32(tcp + 8, mode & 4 ? take32() : flow->next_seq - (mode & 8 ? take16() : 0));
    tcp[12] = 0x50;
    tcp[13] = mode & 16 ? take8() : ACK | PSH;
    put16(tcp + 14, mode & 32 ? take16() : 65535);
    return tcp;
}

static void sum_tcp(const hot_flow *flow, uint8_t *ip, uint32_t payload_bytes)
{
    uint8_t *tcp = ip + flow->header_bytes - 20;
    uint32_t addresses = flow->header_bytes == 40 ? checksum_add(ip + 12, 8) : checksum_add(ip + 8, 32);
    put16(tcp + 16, 0);
    uint64_t sum = (uint64_t)addresses + payload_bytes + 20 + IPPROTO_TCP + checksum_add(tcp, payload_bytes + 20);
    put16(tcp + 16, ~checksum_fold(sum) & 0xFFFF);
}

static packet for_flow(fuzz_flow *f)
{
    static uint8_t frames[MAX_PAYLOAD];
    packet p = {.from = {.sll_hatype = take8() % 8 ? ARPHRD_ETHER : 0xFFFE}};
    uint32_t link = p.from.sll_hatype == ARPHRD_ETHER ? ETHERNET_BYTES : 0, step = 0, headers = f->c->header_bytes;
    uint8_t kind = take8();
    uint32_t bytes = kind < 224   ? pack_frames(f, frames, sizeof frames, &step)
                     : kind < 240 ? 0
                                  : take_length() % sizeof frames;
    struct virtio_net_hdr vnet = {.flags = take8() & 3};
    vnet.gso_size = (uint16_t)(take8() % 4 ? step : take16());
    p.length = VNET_BYTES + link + headers + bytes;
    p.data = calloc(1, p.length);
    uint8_t *ip = p.data + VNET_BYTES + link;
    memcpy(p.data, &vnet, VNET_BYTES);
    memcpy(write_headers(f->c, ip, bytes) + 20, frames, bytes);
    if (!(vnet.flags & 3))
        sum_tcp(f->c, ip, bytes);
    for (uint32_t i = take_spoilt(); i; i--)
        p.data[VNET_BYTES + take16() % (p.length - VNET_BYTES)] ^= take8();
    if (take8() > 240)
        p.length -= take16() % p.length;
    return p;
}

static packet of_any_bytes(void)
{
    packet p = {.length = take_length() + VNET_BYTES};
    p.from.sll_hatype = take8() & 1 ? ARPHRD_ETHER : take16();
    p.data = calloc(1, p.length);
    for (uint32_t i = 0; i < p.length && i < 128; i++)
        p.data[i] = take8();
    return p;
}

static void merged(message *m, int size)
{
    struct cmsghdr *c = (struct cmsghdr *)(void *)(m->control + m->control_bytes);
    c->cmsg_level = SOL_UDP;
    c->cmsg_type = UDP_GRO;
    c->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(c), &size, sizeof size);
    m->control_bytes += (uint32_t)CMSG_SPACE(sizeof size);
}

/* Frames of a UDP flow wait at its carrier. */
static void receive_carried(uint32_t slot)
{
    static uint8_t frames[MAX_PAYLOAD];
    fuzz_flow *f = &w.flows[slot];
    uint8_t told[64];
    uint32_t told_bytes, step = 0;
    message m = {.data = frames};
    if (!f->c->carrier)
        return;
    describe_peer(take8() % 8 ? slot % PEERS : take8() % PEERS, &m, told, &told_bytes);
    m.length = pack_frames(f, frames, sizeof frames, &step);
    if (take8() % 4)
        merged(&m, take8() % 4 ? (int)step : take16());
    for (uint32_t i = take_spoilt(); i && m.length; i--)
        frames[take16() % m.length] ^= take8();
    kernel_queue(f->c->carrier->fd, &m);
}

/* A packet comes: at once, or it waits for the next hot_wait. */
static void receive_packet(void)
{
    uint32_t slot = take8() % FLOWS;
    fuzz_flow *f = &w.flows[slot];
    if (f->c && f->c->udp) {
        receive_carried(slot);
        return;
    }
    packet p = f->c ? for_flow(f) : of_any_bytes();
    uint8_t *exact = malloc(p.length ? p.length : 1); /* so that AddressSanitizer sees its end */
    memcpy(exact, p.data, p.length);
    if (take8() & 1) {
        hot_take_packet(w.engine, exact, p.length, (const uint8_t *)&p.from);
    } else {
        message m = {.data = exact, .length = p.length, .name_bytes = NAME_BYTES};
        memcpy(m.name, &p.from, NAME_BYTES);
        kernel_queue(w.tap, &m);
    }
    free(exact);
    free(p.data);
}

/* -- datagrams */

/* A message of a peer waits at a socket; it may be several datagrams (UDP_GRO). */
static void receive_datagrams(void)
{
    hot_source *s = w.sources[take8() % SOURCES];
    uint8_t told[64];
    uint32_t told_bytes;
    message m = {.data = filler, .length = take_length()};
    if (!s)
        return;
    describe_peer(take8() % PEERS, &m, told, &told_bytes);
    if (take8() & 1)
        merged(&m, take16());
    for (uint32_t times = take8() % 16 + 1u; times; times--)
        kernel_queue(s->fd, &m);
}

static void add_run(void)
{
    static hot_piece pieces[MAX_PIECES / 2];
    hot_conversation *c = w.conversations[take8() % CONVERSATIONS].c;
    uint32_t size = take_length(), count = take16() % (MAX_PIECES / 2) + 1u;
    uint8_t *exact = malloc(size + 1u);
    memset(exact, 5, size);
    for (uint32_t i = 0; i < count; i++)
        pieces[i] = (hot_piece){exact, size};
    pieces[count - 1].length = size ? size - take8() % size : 0;
    if (c)
        REQUIRE(send_run(w.engine, c, pieces, count, size) <= count);
    free(exact);
}

/* As in one pass: runs that may share a burst, which leaves before Python changes anything. */
static void send_runs(void)
{
    for (uint32_t times = take8() % 4 + 1u; times; times--)
        add_run();
    flush_burst(w.engine);
}

/* -- the engine runs */

static void wait(void)
{
    int64_t timeout = take8() % 64 * 1000000ll;
    int told = hot_wait(w.engine, timeout);
    REQUIRE(!(told & ~(HOT_COLD | HOT_LEFT)));
    REQUIRE(!(told & HOT_LEFT) == !something_left(w.engine));
    check_left();
    while (hot_next_dirty(w.engine))
        ;
}

static void change_engine(void)
{
    uint8_t which = take8() % 6, given = take8();
    switch (which) {
    case 0:
        hot_set_spread(w.engine, given & 1, given >> 1 & 1);
        break;
    case 1:
        hot_set_aside(w.engine, given & 1);
        break;
    case 2:
        hot_pause(w.engine, given & 1);
        break;
    case 3:
        hot_ways_changed(w.engine);
        break;
    case 4:
        if (w.sources[0])
            w.sources[0]->aside = given & 1;
        break;
    default:
        kernel_late(given * 10000000ll);
        kernel_pass(take8() * 10000000ll);
    }
}

static void refuse(void)
{
    static const int ERRORS[] = {EAGAIN, ENOBUFS, EMSGSIZE, EINVAL, ECONNREFUSED, EIO, EPERM, ENETDOWN};
    int error = ERRORS[take8() % 8];
    kernel_refuse(error, take8() % 8);
}

/* -- Python's verbs */

static void new_flow(void)
{
    static const uint16_t PAYLOADS[] = {536, 1400, 1448, 1460, 8948, 16407, 100, 24};
    uint32_t slot = take8() % FLOWS, max_payload = PAYLOADS[take8() % 8], burst = take8() % 4 ? 65475 : take16();
    uint8_t scale = take8();
    put_flow(slot, max_payload, burst, scale, take8() % 4 ? 0xFFFFFF00u : take32());
    if (take8() % 8)
        use_flows(slot % GROUPS, 0xFF);
    if (slot < UDP_FLOWS && take8() % 8)
        set_way(w.flows[slot].c, max_payload + 60, burst, take8() % 4);
}

static void new_conversation(void)
{
    uint32_t slot = take8() % CONVERSATIONS, group = take8() % GROUPS, house = take8() % CARRIERS;
    uint16_t number = take8() % 8;
    if (!w.sources[house] && take8() % 8)
        put_source(house);
    uint32_t peer = take8() % PEERS;
    put_conversation(slot, group, number, house, peer, take8() % 4 ? KIND_DATA : KIND_OPENING);
}

static void verb(uint8_t which)
{
    uint8_t slot, given;
    switch (which) {
    case 0:
        new_flow();
        break;
    case 1:
        new_conversation();
        break;
    case 2:
        drop_flow(take8() % FLOWS);
        break;
    case 3:
        drop_conversation(take8() % CONVERSATIONS);
        break;
    case 4:
        put_source(take8() % SOURCES);
        break;
    case 5:
        drop_source(take8() % SOURCES);
        break;
    case 6:
        slot = take8() % GROUPS;
        use_flows(slot, take8());
        break;
    default:
        slot = take8() % FLOWS;
        given = take8();
        turn_keys(slot, given & 1, given >= 192);
    }
}

static void operation(void)
{
    uint8_t which = take8();
    if (which < 64) {
        verb(which % 8);
        return;
    }
    checks_before();
    if (which < 128)
        receive_packet();
    else if (which < 160)
        receive_datagrams();
    else if (which < 192)
        send_runs();
    else if (which < 240)
        wait();
    else if (which < 248)
        change_engine();
    else
        refuse();
    checks_after();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    input = data;
    input_bytes = bytes;
    kernel_sent_packet = check_packet;
    kernel_sent_datagrams = check_datagrams;
    uint8_t cipher_0 = take8(), cipher_1 = take8();
    world_begin(cipher_0, cipher_1);
    for (uint32_t i = 0; i < OPERATIONS && input_bytes; i++)
        operation();
    world_end();
    return 0;
}
