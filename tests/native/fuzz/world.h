/* The flows, conversations and sockets of one fuzzed engine, which are put in and taken out as Python does it. */
#ifndef WORLD_H
#define WORLD_H

#include "kernel.h"

enum { FLOWS = 8, GROUPS = 2, CONVERSATIONS = 6, SOURCES = 6, PEERS = 4, NAME_BYTES = 20 };
/* The last flows are over UDP: one on a server's carrier, one on a client's.  The last sources are these carriers. */
enum { UDP_FLOWS = FLOWS - 2, CARRIERS = SOURCES - 2 };

typedef struct {
    hot_flow *c;      /* NULL = there is none */
    hot_flow mirror;  /* the other end: what it packs is for this flow */
    hot_keys *ours;
    uint8_t peer[64]; /* of a UDP flow */
    uint32_t peer_bytes;
} fuzz_flow;

typedef struct {
    hot_conversation *c;
    uint8_t peer[64];
    uint32_t peer_bytes; /* 0 = it is not a listener's */
} fuzz_conversation;

typedef struct {
    hot_engine *engine;
    int cold, tap, packet_socket;
    hot_group groups[GROUPS];
    uint8_t ciphers[GROUPS];
    fuzz_flow flows[FLOWS];
    fuzz_conversation conversations[CONVERSATIONS];
    hot_source *sources[SOURCES];
} world;

extern world w;

/* A new engine, without flows. */
void world_begin(uint8_t cipher_0, uint8_t cipher_1);
void world_end(void);

void put_flow(uint32_t slot, uint32_t max_payload, uint32_t burst_bytes, uint8_t scale, uint32_t next_seq);
void drop_flow(uint32_t slot);
/* The flows of a group that carry bulk: those whose bit is set. */
void use_flows(uint32_t group, uint32_t bits);
void set_way(hot_flow *flow, uint32_t mtu, uint32_t max_burst, bool ethernet);
void turn_keys(uint32_t slot, int bit, bool forget);

void put_source(uint32_t slot);
void drop_source(uint32_t slot);
/* house: the source by which its datagrams leave; peer: of a listener, whose they are. */
void put_conversation(uint32_t slot, uint32_t group, uint16_t number, uint32_t house, uint32_t peer, uint8_t kind);
void drop_conversation(uint32_t slot);

/* The source's peers are looked up: it is a listener or a server's carrier, not a target's or a client's. */
static inline bool listens(uint32_t source) { return source % 2 == 0; }
/* The name of a peer, and the address of ours that it has asked, as a control message and as the engine tells them. */
void describe_peer(uint32_t peer, message *m, uint8_t *told, uint32_t *told_bytes);

#endif
