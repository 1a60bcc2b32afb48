/* The engine, and its loop: it waits for all descriptors, serves the hot ones, and returns for everything else.
 *
 * Python's own selector is one descriptor here ("cold"): it is readable when some descriptor of Python's is.  There are
 * two sets of descriptors: one with the sockets of applications and targets ("sources"), and one without.  So to stop
 * reading ten thousand sources is to wait for the other set.
 *
 * A round serves what one epoll_wait told.  After a millisecond the other sockets have to wait for the next round, so
 * that cold descriptors, the timer and the tap have their turn.
 */
#include "hot.h"

#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define ROUND 1000000ll /* nanoseconds after which the sockets that are ready wait for the next round */
#define READY 64

int64_t clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What is readable is told by this: a source, or one of two addresses in the engine. */
static void *cold_of(hot_engine *e) { return &e->epoll; }
static void *tap_of(hot_engine *e) { return &e->tap; }

static int watch(int epoll, int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void unwatch(int epoll, int fd) { epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); }

/* In both sets. */
static int watch_always(hot_engine *e, int fd, void *what)
{
    int failure = watch(e->epoll, fd, what);
    if (failure)
        return failure;
    failure = watch(e->epoll_paused, fd, what);
    if (failure)
        unwatch(e->epoll, fd);
    return failure;
}

static void unwatch_always(hot_engine *e, int fd)
{
    unwatch(e->epoll, fd);
    unwatch(e->epoll_paused, fd);
}

/* cold_fd: Python's selector.  NULL = no memory or no descriptors. */
hot_engine *hot_new(int cold_fd, uint64_t seed)
{
    hot_engine *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->tap = -1;
    e->paused = true;
    e->random = seed | 1;
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->epoll_paused = epoll_create1(EPOLL_CLOEXEC);
    e->opened = malloc(OPENED_BYTES);
    e->burst = malloc(64 + 60 + MAX_IP_BYTES + 64);
    e->unsent = malloc(UNSENT_BYTES);
    e->left.packets = calloc(MESSAGES, sizeof *e->left.packets);
    e->left.runs = calloc(MAX_PIECES, sizeof *e->left.runs);
    e->left.pieces = calloc(MAX_PIECES, sizeof *e->left.pieces);
    e->left.bursts = calloc(MAX_BURSTS, sizeof *e->left.bursts);
    bool made = e->epoll >= 0 && e->epoll_paused >= 0 && e->opened && e->burst && e->unsent && e->left.packets &&
                e->left.runs && e->left.pieces && e->left.bursts;
    made = made && !table_init(&e->flows, seed) && !table_init(&e->conversations, seed ^ 1) &&
           !table_init(&e->peers, seed ^ 2) && !table_init(&e->carried, seed ^ 3);
    made = made && !ring_init(&e->tap_ring, VNET_BYTES + ETHERNET_BYTES + MAX_IP_BYTES);
    made = made && !ring_init(&e->udp_ring, 64u << 10);
    if (made && !watch_always(e, cold_fd, cold_of(e)))
        return e;
    hot_free(e);
    return NULL;
}

void hot_free(hot_engine *e)
{
    if (!e)
        return;
    if (e->epoll >= 0)
        close(e->epoll);
    if (e->epoll_paused >= 0)
        close(e->epoll_paused);
    table_free(&e->flows);
    table_free(&e->conversations);
    table_free(&e->peers);
    table_free(&e->carried);
    ring_free(&e->tap_ring);
    ring_free(&e->udp_ring);
    free(e->opened);
    free(e->burst);
    free(e->unsent);
    free(e->left.packets);
    free(e->left.runs);
    free(e->left.pieces);
    free(e->left.bursts);
    free(e);
}

hot_left *hot_left_of(hot_engine *e) { return &e->left; }

/* -- what Python puts in and takes out */

int hot_add_tap(hot_engine *e, int fd)
{
    int failure = watch_always(e, fd, tap_of(e));
    if (!failure) {
        e->tap = fd;
        waiting_init(&e->tap_waiting, fd, clock_now());
    }
    return failure;
}

void hot_drop_tap(hot_engine *e)
{
    if (e->tap >= 0)
        unwatch_always(e, e->tap);
    e->tap = -1;
}

/* Python has to look at each packet. */
void hot_set_aside(hot_engine *e, int aside) { e->tap_aside = aside; }

static void begin(hot_source *s)
{
    waiting_init(&s->waiting, s->fd, clock_now());
    s->read_limit = MESSAGES;
}

static void forget_dirty(hot_engine *e, hot_source *s)
{
    for (hot_source **at = &e->dirty; *at; at = &(*at)->dirty_next)
        if (*at == s) {
            *at = s->dirty_next;
            break;
        }
    s->dirty = 0;
}

int hot_add_source(hot_engine *e, hot_source *s)
{
    begin(s);
    return watch(e->epoll, s->fd, s);
}

void hot_drop_source(hot_engine *e, hot_source *s)
{
    unwatch(e->epoll, s->fd);
    forget_dirty(e, s);
}

int hot_add_carrier(hot_engine *e, hot_source *s)
{
    begin(s);
    return watch_always(e, s->fd, s);
}

void hot_drop_carrier(hot_engine *e, hot_source *s)
{
    unwatch_always(e, s->fd);
    forget_dirty(e, s);
}

/* Whether the sources are read. */
void hot_pause(hot_engine *e, int paused) { e->paused = paused; }

/* A source whose counters have changed since it was last given here; NULL = there is none. */
hot_source *hot_next_dirty(hot_engine *e)
{
    hot_source *s = e->dirty;
    if (s) {
        e->dirty = s->dirty_next;
        s->dirty = 0;
    }
    return s;
}

static uint32_t flow_key(const hot_flow *flow, const uint8_t **key, uint8_t made[36])
{
    /* As in a received packet: its source is the destination of what we send. */
    bool v4 = flow->header_bytes == 40;
    uint32_t bytes = v4 ? 4 : 16, at = v4 ? 12 : 8;
    const uint8_t *tcp = flow->headers + flow->header_bytes - 20;
    memcpy(made, flow->headers + at + bytes, bytes);
    memcpy(made + bytes, flow->headers + at, bytes);
    memcpy(made + 2 * bytes, tcp + 2, 2);
    memcpy(made + 2 * bytes + 2, tcp, 2);
    *key = made;
    return 2 * bytes + 4;
}

int hot_put_flow(hot_engine *e, hot_flow *flow)
{
    if (flow->udp)
        return 0; /* found by its carrier */
    uint8_t made[36];
    const uint8_t *key;
    uint32_t bytes = flow_key(flow, &key, made);
    return table_put(&e->flows, key, bytes, flow);
}

void hot_drop_flow(hot_engine *e, hot_flow *flow)
{
    uint8_t made[36];
    const uint8_t *key;
    if (!flow->udp) {
        uint32_t bytes = flow_key(flow, &key, made);
        table_remove(&e->flows, key, bytes, flow);
    }
    for (hot_flow **at = &e->owing; *at; at = &(*at)->owes_next)
        if (*at == flow) {
            *at = flow->owes_next;
            break;
        }
    flow->owes = 0;
}

void hot_set_spread(hot_engine *e, int per_datagram, int pin)
{
    e->per_datagram = per_datagram;
    e->pin = pin;
}

/* No way that is known may be used any more. */
void hot_ways_changed(hot_engine *e) { e->way_revision++; }

/* The way of a flow is right from now on. */
void hot_set_way(hot_engine *e, hot_flow *flow) { flow->way.revision = e->way_revision; }

int hot_put_conversation(hot_engine *e, hot_conversation *c)
{
    uint8_t key[KEY_BYTES];
    uint32_t length = owned_key(key, c->group, &c->number, sizeof c->number);
    return table_put(&e->conversations, key, length, c);
}

void hot_drop_conversation(hot_engine *e, hot_conversation *c)
{
    uint8_t key[KEY_BYTES];
    uint32_t length = owned_key(key, c->group, &c->number, sizeof c->number);
    table_remove(&e->conversations, key, length, c);
}

static int put_peer(table *t, hot_source *s, const uint8_t *peer, uint32_t bytes, void *value)
{
    uint8_t key[KEY_BYTES];
    uint32_t length = owned_key(key, s, peer, bytes);
    return length ? table_put(t, key, length, value) : -1;
}

static void drop_peer(table *t, hot_source *s, const uint8_t *peer, uint32_t bytes, void *value)
{
    uint8_t key[KEY_BYTES];
    uint32_t length = owned_key(key, s, peer, bytes);
    if (length)
        table_remove(t, key, length, value);
}

int hot_put_peer(hot_engine *e, hot_source *listener, const uint8_t *peer, uint32_t bytes, hot_conversation *c)
{
    return put_peer(&e->peers, listener, peer, bytes, c);
}

void hot_drop_peer(hot_engine *e, hot_source *listener, const uint8_t *peer, uint32_t bytes, hot_conversation *c)
{
    drop_peer(&e->peers, listener, peer, bytes, c);
}

int hot_put_carried(hot_engine *e, hot_source *carrier, const uint8_t *peer, uint32_t bytes, hot_flow *flow)
{
    return put_peer(&e->carried, carrier, peer, bytes, flow);
}

void hot_drop_carried(hot_engine *e, hot_source *carrier, const uint8_t *peer, uint32_t bytes, hot_flow *flow)
{
    drop_peer(&e->carried, carrier, peer, bytes, flow);
}

/* -- the loop */

void hot_forget_left(hot_engine *e)
{
    hot_left *left = &e->left;
    left->passes++;
    left->packet_count = left->run_count = left->piece_count = left->burst_count = 0;
    left->tap_waited = left->carrier_waited = 0;
    e->unsent_bytes = 0;
    e->tap_ring.busy = e->udp_ring.busy = e->blocked = false;
}

/* Milliseconds until the nearest of two moments, rounded up; -1 = none. */
static int patience(const hot_engine *e, int64_t end)
{
    int64_t until = end;
    if (e->owing && e->acknowledge_at < until)
        until = e->acknowledge_at;
    if (until == INT64_MAX)
        return -1;
    int64_t left = (until - clock_now() + 999999) / 1000000;
    return left < 0 ? 0 : left > 1000000 ? 1000000 : (int)left;
}

/* Serve what is ready.  Returns whether a descriptor of Python's is. */
static bool serve(hot_engine *e, const struct epoll_event *ready, int count)
{
    bool cold = false, over = false;
    int64_t end = e->now + ROUND;
    int first = count ? (int)(e->first % (uint32_t)count) : 0;
    for (int n = 0; n < count; n++) {
        int i = (first + n) % count;
        hot_source *source = ready[i].data.ptr;
        if (!over && n % 8 == 7 && clock_now() > end) {
            over = true;
            e->first = (uint32_t)i; /* epoll tells them in the same order next time: begin here */
        }
        if (ready[i].data.ptr == cold_of(e))
            cold = true;
        else if (ready[i].data.ptr == tap_of(e))
            serve_tap(e);
        else if (over)
            continue;
        else if (source->carrier)
            serve_carrier(e, source);
        else
            serve_source(e, source);
    }
    flush_burst(e);
    return cold;
}

/* Wait for at most timeout nanoseconds (-1 = for ever), and serve what is hot meanwhile.  Returns bits: HOT_COLD = a
 * descriptor of Python's is ready; HOT_LEFT = something was left to Python.  0 = time is over, or a signal came.
 * What was left before is forgotten. */
int hot_wait(hot_engine *e, int64_t timeout)
{
    int64_t end = timeout < 0 ? INT64_MAX : clock_now() + timeout;
    hot_forget_left(e);
    for (;;) {
        struct epoll_event ready[READY];
        int count = epoll_wait(e->paused ? e->epoll_paused : e->epoll, ready, READY, patience(e, end));
        if (count < 0)
            return 0;
        e->now = clock_now();
        bool cold = serve(e, ready, count);
        if (e->owing && clock_now() >= e->acknowledge_at)
            acknowledge_due(e);
        if (cold || something_left(e))
            return (cold ? HOT_COLD : 0) | (something_left(e) ? HOT_LEFT : 0);
        if (clock_now() >= end)
            return 0;
    }
}
