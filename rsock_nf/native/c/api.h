/* What Python sees of the native data path.  cffi reads this file as it is: declarations only, no preprocessor.
 *
 * Names are those of the Python twin (core/pump/state.py, sockets/datagrams.py).  Times are nanoseconds of
 * CLOCK_MONOTONIC.  Python allocates flows, groups, conversations and sources, and keeps them alive as long as they are
 * in a table here.
 */

typedef struct hot_flow hot_flow;
typedef struct hot_conversation hot_conversation;
typedef struct hot_source hot_source;
typedef struct hot_keys hot_keys;
typedef struct hot_engine hot_engine;

/* The last 8,192 counters.  Twin: core/pump/replay.py. */
typedef struct {
    uint64_t seen[128]; /* counter c is bit c % 8192 */
    uint64_t next;      /* the highest accepted counter + 1; 0 = none yet */
} hot_window;

/* The flows of one session that may carry bulk.  Twin: FlowGroup.usable. */
typedef struct {
    hot_flow **usable;
    uint32_t usable_count;
} hot_group;

/* By which socket and with which link header the packets of a flow leave. */
typedef struct {
    int fd;             /* -1 = not known: Python sends */
    uint32_t revision;  /* valid while it is the engine's */
    uint32_t mtu;       /* the largest IP packet */
    uint32_t max_burst; /* the largest IP packet of a burst */
    uint32_t link_bytes;
    uint32_t name_bytes; /* a device without link header is named in each call */
    uint8_t link_header[16];
    uint8_t name[32]; /* struct sockaddr_ll */
} hot_way;

/* Where datagrams go on a socket, and from which of our addresses. */
typedef struct {
    uint32_t name_bytes; /* 0 = the socket is connected */
    uint32_t control_bytes;
    uint8_t name[32];    /* struct sockaddr_in or sockaddr_in6 */
    uint8_t control[64]; /* IP_PKTINFO or IPV6_PKTINFO, as a struct cmsghdr; only on a socket that has any address */
} hot_destination;

struct hot_flow {
    uint32_t next_seq, highest_ack, received, window, scale, receive_window;
    uint64_t bulk_window, unacknowledged;
    uint8_t windowed, stalled;
    uint32_t max_payload, burst_bytes;
    uint64_t counter, sent, sent_frames, sent_bytes, received_frames, received_bytes;
    uint64_t bad_checksums, bad_frames, replayed, out_of_window;
    hot_window replay;

    hot_group *group;
    uint8_t cipher; /* 0 = unknown frames: everything goes through Python.  1 = none, 2 = AES-256-GCM, 3 = ChaCha20 */
    uint32_t token_out, token_in;
    hot_keys *keys;

    uint8_t headers[60]; /* IP and TCP headers; what changes from burst to burst is filled in */
    uint32_t header_bytes;
    uint16_t identification;
    hot_way way;

    hot_source *carrier; /* of a UDP flow; NULL = fake TCP, or not known: Python sends */
    hot_destination destination;
    uint8_t udp;

    uint64_t left_pass; /* the pass in which something of it was left to Python: what follows has to wait for that */
    uint8_t owes;       /* it is among those that have to acknowledge */
    hot_flow *owes_next;
};

struct hot_conversation {
    uint16_t number;
    uint8_t kind; /* 0 = data, 1 = opening */
    hot_group *group;
    hot_flow *pinned;
    uint64_t sent_datagrams, sent_bytes, received_datagrams, received_bytes;
    uint64_t left_pass;   /* as of a flow */
    hot_source *out;      /* where its datagrams are delivered; NULL = through Python */
    uint32_t single_from; /* the smallest segment size with which a run was refused; 0 = none was */
    hot_destination destination;
};

/* How long what a socket gives has waited.  Twin: link/waiting_time.py. */
typedef struct {
    int64_t since, read_at, last_waited, late_since, dropped_at;
    uint32_t lost_reads;
} hot_waiting;

/* A socket toward applications or toward one target, or a carrier of flows.  Twin: UdpSocket. */
struct hot_source {
    int fd;
    uint8_t carrier;
    hot_conversation *conversation; /* a target's; NULL = a listener, whose peers are looked up */
    hot_flow *flow;                 /* a client's carrier's; NULL = a server's, whose flows are looked up */
    uint64_t id;                    /* by which Python knows it */
    uint8_t aside;                  /* Python has to look at each datagram */
    uint32_t read_limit;
    uint64_t received, sent, refused, send_full, send_errors, receive_errors, sent_singly, late; /* not folded yet */
    uint8_t dirty;
    hot_source *dirty_next;
    hot_waiting waiting;
};

/* What C could not decide.  All pointers are valid until the next hot_wait. */
typedef struct {
    const uint8_t *data; /* virtio_net_hdr, link header, IP packet */
    uint32_t length;
    const uint8_t *name; /* struct sockaddr_ll */
} hot_packet;

typedef struct {
    const uint8_t *data;
    uint32_t length;
} hot_piece;

typedef struct {
    hot_source *source;
    const uint8_t *peer; /* of a listener: sockaddr, then where it was sent to */
    uint32_t peer_bytes;
    uint32_t first, count; /* of the pieces; none = an error of this socket was counted */
    uint32_t size;
} hot_run;

/* A burst that the kernel did not take, or for which no way is known. */
typedef struct {
    hot_flow *flow;
    const uint8_t *data; /* IP and TCP headers, then the payload */
    uint32_t header_bytes, payload_bytes, segment_size;
} hot_burst;

/* What the link counts.  Twin: LinkCounters.  Python adds it to its own, and clears it. */
typedef struct {
    uint64_t received_packets, received_bytes, truncated, late;
    uint64_t sent_packets, sent_segments, sent_bytes;
} hot_counters;

typedef struct {
    hot_counters link;
    hot_packet *packets;
    hot_run *runs;
    hot_piece *pieces;
    hot_burst *bursts;
    uint32_t packet_count, run_count, piece_count, burst_count;
    int64_t tap_waited; /* of the last read of the tap */
    int64_t carrier_waited; /* and of a carrier */
    uint64_t passes; /* how often C ran */
} hot_left;

/* Bits of what hot_wait returns. */
enum { HOT_COLD = 1, HOT_LEFT = 2 };

hot_engine *hot_new(int cold_fd, uint64_t seed);
void hot_free(hot_engine *engine);
hot_left *hot_left_of(hot_engine *engine);
int hot_wait(hot_engine *engine, int64_t timeout);
int hot_has_crypto(void);

int hot_add_tap(hot_engine *engine, int fd);
void hot_drop_tap(hot_engine *engine);
void hot_set_aside(hot_engine *engine, int aside);
int hot_add_source(hot_engine *engine, hot_source *source);
void hot_drop_source(hot_engine *engine, hot_source *source);
int hot_add_carrier(hot_engine *engine, hot_source *source);
void hot_drop_carrier(hot_engine *engine, hot_source *source);
void hot_pause(hot_engine *engine, int paused);
hot_source *hot_next_dirty(hot_engine *engine);

int hot_put_flow(hot_engine *engine, hot_flow *flow);
void hot_drop_flow(hot_engine *engine, hot_flow *flow);
void hot_set_spread(hot_engine *engine, int per_datagram, int pin);
void hot_ways_changed(hot_engine *engine);
void hot_set_way(hot_engine *engine, hot_flow *flow);
int hot_put_conversation(hot_engine *engine, hot_conversation *conversation);
void hot_drop_conversation(hot_engine *engine, hot_conversation *conversation);
int hot_put_peer(hot_engine *engine, hot_source *listener, const uint8_t *peer, uint32_t bytes,
                 hot_conversation *conversation);
void hot_drop_peer(hot_engine *engine, hot_source *listener, const uint8_t *peer, uint32_t bytes,
                   hot_conversation *conversation);
int hot_put_carried(hot_engine *engine, hot_source *carrier, const uint8_t *peer, uint32_t bytes, hot_flow *flow);
void hot_drop_carried(hot_engine *engine, hot_source *carrier, const uint8_t *peer, uint32_t bytes,
                      hot_flow *flow);

int hot_accept(hot_window *window, uint64_t counter);

/* keys: direction 0 = out, 1 = in */
hot_keys *hot_keys_new(int cipher, const uint8_t *mask_out, const uint8_t *mask_in);
void hot_keys_free(hot_keys *keys);
int hot_keys_send(hot_keys *keys, int bit, const uint8_t *key);
int hot_keys_receive(hot_keys *keys, int bit, const uint8_t *key);

/* For tests: one packet, one run, one message of a carrier, as if it had been read; what is due by then. */
int hot_take_packet(hot_engine *engine, uint8_t *data, uint32_t length, const uint8_t *name);
int hot_take_carried(hot_engine *engine, hot_flow *flow, const uint8_t *data, uint32_t length, uint32_t segment_size);
uint32_t hot_send_run(hot_engine *engine, hot_conversation *conversation, const hot_piece *pieces, uint32_t count,
                      uint32_t size);
void hot_flush(hot_engine *engine);
void hot_acknowledge(hot_engine *engine);
void hot_forget_left(hot_engine *engine);
uint64_t hot_random(hot_engine *engine, uint64_t next);
