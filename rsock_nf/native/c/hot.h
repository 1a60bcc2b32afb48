/* What the files of the native data path share.  The path of a datagram, in the order of the files:
 *
 *   loop.c     waits; serves what is hot, and returns to Python for everything else
 *   messages.c reads many messages from a UDP socket; who sent each
 *   sockets.c  messages of applications and targets -> runs
 *   out.c      datagrams -> a usable flow with credit -> frames of equal size -> one burst, of several conversations
 *   plain.c, sealed.c   the bytes of data frames
 *   headers.c  IP and TCP headers, checksums
 *   in.c       packet -> flow -> acknowledgement -> frames -> conversation
 *   carriers.c messages of UDP carriers -> the payload of a flow, as in in.c
 *   deliver.c  datagrams of a conversation -> one sendmsg(2); what carriers send, too
 *   replay.c, waiting.c, table.c   the replay window; what is late; a hash table
 *
 * Each has a Python twin that says what it does: core/pump/pump.py, wire/native/frames.py, sockets/datagrams.py,
 * link/linux/tap.py, link/waiting_time.py.  What is here is the common case only.  Whatever else comes (a stranger, a
 * control frame, a flow without credit, an error) is left to Python whole, and nothing of it has been counted yet.
 *
 * One thread.  Python changes the tables only while hot_wait does not run.
 */
#ifndef HOT_H
#define HOT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "api.h"

enum { KIND_DATA = 0, KIND_OPENING = 1, KIND_FRAGMENT = 2, KIND_CONTROL = 3 };
enum { CIPHER_UNKNOWN = 0, CIPHER_NONE = 1, CIPHER_AES = 2, CIPHER_CHACHA = 3 };
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

#define FRAME_HEADER 8u
#define FRAME_TAG 16u
#define VNET_BYTES 10u
#define ETHERNET_BYTES 14u
#define MAX_IP_BYTES 65535u

#define MESSAGES 64u       /* of one read */
#define MAX_FRAMES 1024u   /* of one packet; more are left to Python */
#define MAX_PIECES 4096u   /* of one run, and of all that is left to Python */
#define MAX_BURSTS 1024u   /* that wait for Python */
#define MAX_PAYLOAD (MAX_IP_BYTES - 60u)
#define UDP_SEGMENTS 64u   /* datagrams in one UDP_SEGMENT send (include/linux/udp.h) */
#define UDP_BYTES 65487u   /* of one such send, so that an IPv6 packet fits, too */

/* -- table.c: from a short key to a pointer */

#define KEY_BYTES 64u

typedef struct {
    struct table_entry *entries;
    uint32_t mask, used, filled;
    uint64_t seed;
} table;

int table_init(table *t, uint64_t seed);
void table_free(table *t);
void *table_get(const table *t, const void *key, uint32_t length);
int table_put(table *t, const void *key, uint32_t length, void *value);
void table_remove(table *t, const void *key, uint32_t length, const void *value);

/* Write the key of what `owner` calls by this name.  Returns its bytes; 0 = it is too long for a key. */
static inline uint32_t owned_key(uint8_t *key, const void *owner, const void *name, uint32_t bytes)
{
    if (bytes > KEY_BYTES - sizeof owner)
        return 0;
    memcpy(key, &owner, sizeof owner);
    memcpy(key + sizeof owner, name, bytes);
    return (uint32_t)sizeof owner + bytes;
}

/* -- messages.c: a ring of buffers that recvmmsg(2) fills */

typedef struct {
    uint32_t buffer_bytes, stride;
    uint8_t *data;
    struct mmsghdr messages[MESSAGES];
    struct iovec vectors[MESSAGES];
    uint8_t names[MESSAGES][32];
    uint8_t controls[MESSAGES][96] __attribute__((aligned(8)));
    uint32_t used;
    bool busy; /* Python holds a part of it until the next hot_wait */
} ring;

int ring_init(ring *r, uint32_t buffer_bytes);
void ring_free(ring *r);
int ring_read(ring *r, int fd, uint32_t limit);
static inline uint8_t *ring_buffer(ring *r, uint32_t index) { return r->data + (size_t)index * r->stride; }

/* What the kernel said of a message: at which size to cut it, and to which address it came. */
typedef struct {
    uint32_t segment;
    uint32_t source_bytes;
    uint8_t source[20];
} ancillary;

void read_ancillary(struct msghdr *message, ancillary *told);
uint32_t name_sender(ring *r, uint32_t index, const ancillary *told, const uint8_t **peer);
void *look_up(const table *t, const hot_source *s, const uint8_t *peer, uint32_t bytes);
uint32_t read_messages(hot_engine *e, hot_source *s, int64_t *waited);

/* -- waiting.c */

#define BEHIND 50000000ll
#define LATE 200000000ll
#define LOST 1000000000ll
#define LATE_READS 16u
#define ROUNDS 8u /* reads of a tap that is behind, before others get their turn */

void waiting_init(hot_waiting *w, int fd, int64_t now);
int64_t waiting_read(hot_waiting *w, int fd, int64_t now, bool full);
void waiting_empty(hot_waiting *w, int64_t now);
bool may_be_control(uint32_t size, uint32_t segment_size);
int64_t waiting_waited(const hot_waiting *w, int64_t now);
uint32_t waiting_limit(const hot_waiting *w, int64_t now);
#define STRANGER UINT64_MAX
/* keep[i] = the sender of amount i is known, and has less than half of an equal share.  Returns how many strangers'
 * messages may be kept beside them. */
uint32_t not_the_cause(const uint64_t *senders, const uint32_t *amounts, uint32_t count, uint8_t *keep);

/* -- the engine */

/* Datagrams of one conversation that are delivered together. */
typedef struct {
    hot_conversation *conversation;
    struct iovec pieces[UDP_SEGMENTS];
    uint32_t count, size, bytes;
    bool closed; /* its last datagram is shorter: nothing can follow */
} delivery;

/* The burst that is being built, in hot_engine.burst: frames of one size, the last may be shorter. */
typedef struct {
    hot_flow *flow; /* NULL = there is none */
    uint32_t step; /* bytes of a frame */
    uint32_t count, limit, bytes;
    bool closed; /* its last frame is shorter: nothing can follow */
} outgoing;

typedef struct {
    hot_conversation *conversation;
    uint64_t counter; /* sealed only */
    const uint8_t *data;
    uint32_t length, end; /* the offset behind the frame, in the payload */
} data_frame;

struct hot_engine {
    int epoll, epoll_paused; /* with the sources, and without */
    int64_t now;
    bool paused, blocked;
    uint32_t first; /* of what is ready: where the next round begins */
    uint64_t random;
    int per_datagram, pin;
    uint32_t way_revision;

    table flows, conversations, peers, carried;
    hot_flow *owing;
    int64_t acknowledge_at;
    hot_source *dirty;

    int tap;
    bool tap_aside; /* Python has to look at each packet */
    hot_waiting tap_waiting;
    ring tap_ring, udp_ring;

    delivery delivery;
    data_frame frames[MAX_FRAMES];
    uint8_t *opened; /* opened datagrams, until they are delivered */
    uint32_t opened_bytes;

    hot_piece run[MAX_PIECES]; /* the run that is being gathered */
    outgoing outgoing;
    uint8_t *burst; /* the bytes of outgoing */

    hot_left left;
    uint8_t *unsent; /* the bytes of left.bursts */
    size_t unsent_bytes;
};

#define OPENED_BYTES (256u << 10)
#define UNSENT_BYTES (8u << 20)

int64_t clock_now(void);

/* -- headers.c */

/* Raw bytes may begin anywhere: they are read and written as big-endian numbers byte by byte. */
static inline uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xFFFF);
}

uint32_t checksum_add(const uint8_t *data, uint32_t length);
uint32_t checksum_fold(uint64_t sum);
bool checksums_valid(const uint8_t *ip, uint32_t total, uint32_t tcp);
uint32_t build_headers(hot_flow *flow, uint32_t payload_bytes, uint32_t segments, uint8_t flags, uint8_t *out);

/* -- plain.c, sealed.c: both return bytes written, or frames found; 0 = left to Python */

uint32_t plain_pack(const hot_flow *flow, uint16_t number, const hot_piece *pieces, uint32_t count, uint8_t *out);
uint32_t plain_open(hot_engine *e, const hot_flow *flow, const uint8_t *payload, uint32_t size);
uint32_t sealed_pack(const hot_flow *flow, uint16_t number, const hot_piece *pieces, uint32_t count, uint8_t *out);
uint32_t sealed_open(hot_engine *e, const hot_flow *flow, const uint8_t *payload, uint32_t size,
                     uint32_t segment_size);

hot_conversation *conversation_of(const hot_engine *e, const hot_group *group, uint16_t number);

/* -- out.c, in.c, sockets.c, carriers.c, deliver.c */

uint32_t send_run(hot_engine *e, hot_conversation *c, const hot_piece *pieces, uint32_t count, uint32_t size);
void flush_burst(hot_engine *e);
void acknowledge(hot_engine *e, hot_flow *flow);
void acknowledge_due(hot_engine *e);
void owe(hot_engine *e, hot_flow *flow);

void serve_tap(hot_engine *e);
void serve_source(hot_engine *e, hot_source *source);
void serve_carrier(hot_engine *e, hot_source *source);
bool take_payload(hot_engine *e, hot_flow *flow, const uint8_t *payload, uint32_t size, uint32_t segment_size,
                  uint32_t *taken);
int send_datagrams(hot_source *s, const hot_destination *to, struct iovec *pieces, uint32_t count, uint32_t segment);
void mark(hot_engine *e, hot_source *s);
void deliver(hot_engine *e, hot_conversation *c, const uint8_t *data, uint32_t length);
void deliver_now(hot_engine *e);

static inline bool something_left(const hot_engine *e)
{
    return e->left.packet_count || e->left.run_count || e->left.burst_count;
}

#endif
