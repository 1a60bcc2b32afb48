#include "world.h"

world w;

static const uint8_t KEY[2][32] = {{1, 2, 3}, {4, 5, 6}};
static const uint8_t MASK_OUT[16] = {7}, MASK_IN[16] = {8};

void world_begin(uint8_t cipher_0, uint8_t cipher_1)
{
    w = (world){.ciphers = {cipher_0 % 4, cipher_1 % 4}};
    kernel_reset();
    w.cold = kernel_open();
    w.tap = kernel_open();
    w.packet_socket = kernel_open();
    w.engine = hot_new(w.cold, 1);
    REQUIRE(w.engine);
    REQUIRE(!hot_add_tap(w.engine, w.tap));
    hot_pause(w.engine, 0);
}

void world_end(void)
{
    for (uint32_t i = 0; i < CONVERSATIONS; i++)
        drop_conversation(i);
    for (uint32_t i = 0; i < FLOWS; i++)
        drop_flow(i);
    for (uint32_t i = 0; i < SOURCES; i++)
        drop_source(i);
    for (uint32_t i = 0; i < GROUPS; i++)
        free(w.groups[i].usable);
    REQUIRE(!w.engine->owing && !w.engine->dirty);
    REQUIRE(!w.engine->flows.used && !w.engine->conversations.used && !w.engine->peers.used &&
            !w.engine->carried.used);
    hot_drop_tap(w.engine);
    hot_free(w.engine);
}

static void give_destination(hot_destination *to, const message *m)
{
    memcpy(to->name, m->name, m->name_bytes);
    memcpy(to->control, m->control, m->control_bytes);
    to->name_bytes = m->name_bytes;
    to->control_bytes = m->control_bytes;
}

/* -- flows */

/* Headers with addresses and ports: of slots 0 and 4 (1 and 5) the same.  Even slots have IPv4. */
static void write_headers(hot_flow *flow, uint32_t slot)
{
    uint8_t *ip = flow->headers, *tcp;
    flow->header_bytes = slot % 2 ? 60 : 40;
    memset(ip, 0, sizeof flow->headers);
    tcp = ip + flow->header_bytes - 20;
    if (slot % 2 == 0) {
        ip[0] = 0x45;
        put16(ip + 6, 0x4000);
        ip[8] = 64;
        ip[9] = IPPROTO_TCP;
        put32(ip + 12, 0x0A000001);
        put32(ip + 16, 0x0A000002);
    } else {
        ip[0] = 0x60;
        ip[6] = IPPROTO_TCP;
        ip[7] = 64;
        ip[8] = ip[24] = 0xFD;
        ip[23] = 1;
        ip[39] = 2;
    }
    put16(tcp, 4000);
    put16(tcp + 2, 5000 + slot % 4);
}

static void give_keys(fuzz_flow *f)
{
    int cipher = f->c->cipher;
    hot_flow *mirror = &f->mirror;
    *mirror = (hot_flow){.cipher = f->c->cipher, .token_out = f->c->token_in};
    f->ours = NULL;
    if (cipher != CIPHER_AES && cipher != CIPHER_CHACHA)
        return;
    f->ours = hot_keys_new(cipher, MASK_OUT, MASK_IN);
    mirror->keys = hot_keys_new(cipher, MASK_IN, MASK_OUT);
    REQUIRE(f->ours && mirror->keys);
    REQUIRE(!hot_keys_send(f->ours, 0, KEY[0]) && !hot_keys_receive(f->ours, 0, KEY[0]));
    REQUIRE(!hot_keys_send(mirror->keys, 0, KEY[0]));
    f->c->keys = f->ours;
}

/* -- UDP flows and their carriers */

static uint32_t carrier_of(uint32_t flow) { return flow - UDP_FLOWS + CARRIERS; }

static void board(uint32_t slot)
{
    fuzz_flow *f = &w.flows[slot];
    hot_source *carrier = w.sources[carrier_of(slot)];
    message m;
    if (!carrier)
        return;
    f->c->carrier = carrier;
    if (!listens(carrier_of(slot))) {
        carrier->flow = f->c;
        return;
    }
    describe_peer(slot % PEERS, &m, f->peer, &f->peer_bytes);
    give_destination(&f->c->destination, &m);
    REQUIRE(!hot_put_carried(w.engine, carrier, f->peer, f->peer_bytes, f->c));
}

static void leave_carrier(uint32_t slot)
{
    fuzz_flow *f = &w.flows[slot];
    hot_source *carrier = f->c->carrier;
    f->c->carrier = NULL;
    if (!carrier)
        return;
    if (carrier->flow == f->c)
        carrier->flow = NULL;
    else
        hot_drop_carried(w.engine, carrier, f->peer, f->peer_bytes, f->c);
}

void put_flow(uint32_t slot, uint32_t max_payload, uint32_t burst_bytes, uint8_t scale, uint32_t next_seq)
{
    fuzz_flow *f = &w.flows[slot];
    drop_flow(slot);
    f->c = calloc(1, sizeof *f->c);
    f->c->udp = slot >= UDP_FLOWS;
    if (!f->c->udp)
        write_headers(f->c, slot);
    f->c->group = &w.groups[slot % GROUPS];
    f->c->cipher = w.ciphers[slot % GROUPS];
    if (!hot_has_crypto() && f->c->cipher > CIPHER_NONE)
        f->c->cipher = CIPHER_UNKNOWN;
    f->c->token_out = 0x11111111;
    f->c->token_in = 0x22222222;
    f->c->max_payload = max_payload;
    f->c->burst_bytes = burst_bytes ? (burst_bytes > max_payload ? burst_bytes : max_payload) : 0;
    f->c->scale = scale % 15;
    f->c->receive_window = 65535u << f->c->scale;
    f->c->next_seq = f->c->highest_ack = next_seq;
    f->c->received = ~next_seq;
    f->c->window = 65535;
    f->c->bulk_window = 49151;
    f->c->windowed = slot != 2 && !f->c->udp;
    if (!f->c->windowed)
        f->c->bulk_window = 1ull << 62;
    f->c->way.fd = -1;
    give_keys(f);
    REQUIRE(!hot_put_flow(w.engine, f->c));
    if (f->c->udp)
        board(slot);
}

void drop_flow(uint32_t slot)
{
    fuzz_flow *f = &w.flows[slot];
    if (!f->c)
        return;
    hot_drop_flow(w.engine, f->c);
    if (f->c->udp)
        leave_carrier(slot);
    hot_group *group = f->c->group;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < group->usable_count; i++)
        if (group->usable[i] != f->c)
            group->usable[kept++] = group->usable[i];
    group->usable_count = kept;
    hot_keys_free(f->ours);
    hot_keys_free(f->mirror.keys);
    free(f->c);
    *f = (fuzz_flow){0};
}

void use_flows(uint32_t group, uint32_t bits)
{
    hot_group *g = &w.groups[group];
    hot_flow *usable[FLOWS];
    uint32_t count = 0;
    for (uint32_t i = group; i < FLOWS; i += GROUPS)
        if (w.flows[i].c && bits >> i & 1)
            usable[count++] = w.flows[i].c;
    free(g->usable);
    g->usable = malloc(count * sizeof *usable + 1);
    memcpy(g->usable, usable, count * sizeof *usable);
    g->usable_count = count;
}

void set_way(hot_flow *flow, uint32_t mtu, uint32_t max_burst, bool ethernet)
{
    flow->way = (hot_way){
        .fd = w.packet_socket,
        .mtu = mtu,
        .max_burst = max_burst < MAX_IP_BYTES ? max_burst : MAX_IP_BYTES,
        .link_bytes = ethernet ? ETHERNET_BYTES : 0,
        .name_bytes = ethernet ? 0 : NAME_BYTES,
    };
    hot_set_way(w.engine, flow);
}

void turn_keys(uint32_t slot, int bit, bool forget)
{
    fuzz_flow *f = &w.flows[slot];
    if (!f->c || !f->ours)
        return;
    REQUIRE(!hot_keys_receive(f->ours, bit, forget ? NULL : KEY[bit]));
    if (forget)
        return;
    REQUIRE(!hot_keys_send(f->ours, bit, KEY[bit]) && !hot_keys_send(f->mirror.keys, bit, KEY[bit]));
}

/* -- sources and conversations */

void put_source(uint32_t slot)
{
    drop_source(slot);
    hot_source *s = w.sources[slot] = calloc(1, sizeof *s);
    s->fd = kernel_open();
    s->id = slot + 1;
    s->carrier = slot >= CARRIERS;
    if (!s->carrier) {
        REQUIRE(!hot_add_source(w.engine, s));
        return;
    }
    REQUIRE(!hot_add_carrier(w.engine, s));
    uint32_t flow = slot - CARRIERS + UDP_FLOWS;
    if (w.flows[flow].c)
        board(flow);
}

static void leave_house(fuzz_conversation *c)
{
    hot_source *out = c->c->out;
    c->c->out = NULL;
    if (!out)
        return;
    if (c->peer_bytes)
        hot_drop_peer(w.engine, out, c->peer, c->peer_bytes, c->c);
    else if (out->conversation == c->c)
        out->conversation = NULL;
}

void drop_source(uint32_t slot)
{
    hot_source *s = w.sources[slot];
    if (!s)
        return;
    for (uint32_t i = 0; i < CONVERSATIONS; i++)
        if (w.conversations[i].c && w.conversations[i].c->out == s)
            leave_house(&w.conversations[i]);
    for (uint32_t i = UDP_FLOWS; i < FLOWS; i++)
        if (w.flows[i].c && w.flows[i].c->carrier == s)
            leave_carrier(i);
    if (s->carrier)
        hot_drop_carrier(w.engine, s);
    else
        hot_drop_source(w.engine, s);
    kernel_close(s->fd);
    free(s);
    w.sources[slot] = NULL;
}

void describe_peer(uint32_t peer, message *m, uint8_t *told, uint32_t *told_bytes)
{
    bool v4 = peer % 2 == 0;
    struct cmsghdr *c = (struct cmsghdr *)(void *)m->control;
    uint32_t source_bytes = v4 ? 12 : 20;
    memset(m->name, 0, sizeof m->name);
    m->name[0] = v4 ? AF_INET : AF_INET6;
    m->name[3] = (uint8_t)peer;
    m->name_bytes = v4 ? 16 : 28;
    memcpy(told, m->name, m->name_bytes);
    memset(told + m->name_bytes, 0, source_bytes);
    *told_bytes = m->name_bytes;
    m->control_bytes = 0;
    if (peer >= PEERS / 2) /* without the address that it has asked */
        return;
    memset(m->control, 0, sizeof m->control);
    c->cmsg_level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
    c->cmsg_type = v4 ? IP_PKTINFO : IPV6_PKTINFO;
    c->cmsg_len = CMSG_LEN(source_bytes);
    CMSG_DATA(c)[4] = told[m->name_bytes + 4] = 9;
    m->control_bytes = (uint32_t)CMSG_SPACE(source_bytes);
    *told_bytes += source_bytes;
}

void put_conversation(uint32_t slot, uint32_t group, uint16_t number, uint32_t house, uint32_t peer, uint8_t kind)
{
    fuzz_conversation *c = &w.conversations[slot];
    hot_source *out = w.sources[house];
    drop_conversation(slot);
    for (uint32_t i = 0; i < CONVERSATIONS; i++) { /* Python has one with these numbers, and one of this peer */
        hot_conversation *other = w.conversations[i].c;
        bool same_peer = other && out && other->out == out && (!listens(house) || w.conversations[i].peer[3] == peer);
        if (other && ((other->group == &w.groups[group] && other->number == number) || same_peer))
            drop_conversation(i);
    }
    c->c = calloc(1, sizeof *c->c);
    c->c->group = &w.groups[group];
    c->c->number = number;
    c->c->kind = kind;
    c->peer_bytes = 0;
    REQUIRE(!hot_put_conversation(w.engine, c->c));
    if (!out)
        return;
    c->c->out = out;
    if (!listens(house)) {
        out->conversation = c->c;
        return;
    }
    message m;
    describe_peer(peer, &m, c->peer, &c->peer_bytes);
    give_destination(&c->c->destination, &m);
    REQUIRE(!hot_put_peer(w.engine, out, c->peer, c->peer_bytes, c->c));
}

void drop_conversation(uint32_t slot)
{
    fuzz_conversation *c = &w.conversations[slot];
    if (!c->c)
        return;
    hot_drop_conversation(w.engine, c->c);
    leave_house(c);
    free(c->c);
    *c = (fuzz_conversation){0};
}
